// LOAD: asks DRAM for the lines of a block, and writes them with their padding into a buffer.
//
// Two halves work on consecutive instructions: `line_requests` asks for the lines of the next one while beats
// of the last one still come in, so that the memory's latency shows once, not once for each instruction.
// An instruction is complete when its last row is written and all its lines were found in range.
module load #(
    parameter int N = 16,
    parameter int DRAM_BITS = 128,
    parameter int BURST_ROWS = 64,
    parameter int INP_ROWS = 8192,
    parameter int WGT_ROWS = 8192,
    parameter int PRM_ROWS = 512,
    localparam int ROW_BITS = 8 * N
) (
    input  logic                clk,
    input  logic                reset,
    input  logic [31:0]         limit,
    input  logic                halt,          // ask for nothing more; beats under way are still taken
    output logic                busy,
    output logic [3:0]          fault,

    // The queue of instructions, and tokens.
    input  logic                head_valid,
    input  isa_pkg::load_t      head,
    input  logic                grant,
    output logic                start,
    output logic                give,
    output logic [1:0]          gives,

    // Reads of DRAM: bursts of rows; beats come back in order.
    output logic                request_valid,
    input  logic                request_ready,
    output logic [31:0]         request_row,
    output logic [8:0]          request_rows,
    input  logic                beat_valid,
    output logic                beat_ready,
    input  logic [DRAM_BITS-1:0] beat,
    input  logic                beat_error,

    // Writes to the buffers.
    output logic                inp_write,
    output logic                wgt_write,
    output logic                prm_write,
    output logic [15:0]         write_row,
    output logic [ROW_BITS-1:0] write_data
);
  localparam int BEATS = ROW_BITS / DRAM_BITS;
  localparam int SUB = BEATS > 1 ? $clog2(BEATS) : 1;

  function automatic logic [16:0] rows_of(input logic [1:0] buffer);
    case (buffer)
      isa_pkg::BUFFER_INP: rows_of = 17'(INP_ROWS);
      isa_pkg::BUFFER_WGT: rows_of = 17'(WGT_ROWS);
      default:             rows_of = 17'(PRM_ROWS);
    endcase
  endfunction

  // ---- Requests -----------------------------------------------------------------------------------------
  logic        walk_busy, walk_done, walk_takes;
  logic [3:0]  walk_fault;
  logic [15:0] walk_sram;
  logic        walk_last;
  logic        work_full;

  assign walk_takes = head_valid && grant && !halt && !walk_busy && !work_full && fault == isa_pkg::FAULT_NONE;
  assign start = walk_takes;

  line_requests #(.BURST_ROWS(BURST_ROWS)) requests (
      .clk, .reset, .limit, .halt,
      .start(walk_takes), .buffer_rows(rows_of(head.buffer)),
      .sram(head.sram), .dram(head.dram), .nx(head.nx), .ny(head.ny), .nz(head.nz),
      .pad_left(head.pad_left), .pad_right(head.pad_right),
      .pad_top(head.pad_top), .pad_bottom(head.pad_bottom),
      .stride_y(head.stride_y), .stride_z(head.stride_z),
      .busy(walk_busy), .done(walk_done), .fault(walk_fault),
      .burst_valid(request_valid), .burst_ready(request_ready), .burst_dram(request_row),
      .burst_sram(walk_sram), .burst_rows(request_rows), .burst_last(walk_last)
  );

  // ---- Rows ---------------------------------------------------------------------------------------------
  // The instruction whose rows are written; it may be one or two behind the one whose lines are asked for.
  isa_pkg::load_t work;
  logic           work_valid, retires;

  fifo #(.WIDTH(256), .DEPTH(2)) works (
      .clk, .reset, .push(walk_takes), .entry(head), .full(work_full),
      .pop(retires), .head_valid(work_valid), .head(work)
  );

  logic [31:0] expected;              // rows asked for and not yet written
  logic        writing;               // the counters below belong to `work`
  logic [16:0] row;
  logic [16:0] x;
  logic [16:0] y;
  logic [15:0] z;
  logic [16:0] width, height;
  logic        is_padding, ends_line, ends_plane, ends_work, all_written;
  logic        row_ready, writes, pads;

  assign width = 17'(work.nx) + 17'(work.pad_left) + 17'(work.pad_right);
  assign height = 17'(work.ny) + 17'(work.pad_top) + 17'(work.pad_bottom);
  assign is_padding = x < 17'(work.pad_left) || x >= 17'(work.pad_left) + 17'(work.nx)
      || y < 17'(work.pad_top) || y >= 17'(work.pad_top) + 17'(work.ny);
  assign ends_line = x == width - 1'b1;
  assign ends_plane = ends_line && y == height - 1'b1;
  assign ends_work = ends_plane && z == work.nz - 1'b1;
  assign pads = is_padding && !(halt && expected == '0);
  assign writes = writing && !all_written && (pads || row_ready);

  always_ff @(posedge clk) begin
    if (reset || retires) begin
      writing <= 1'b0;
    end else if (work_valid && !writing) begin
      writing <= 1'b1;
      all_written <= 1'b0;
      row <= 17'(work.sram);
      x <= '0;
      y <= '0;
      z <= '0;
    end else if (writes) begin
      all_written <= ends_work;
      row <= row + 1'b1;
      x <= ends_line ? '0 : x + 1'b1;
      if (ends_line) y <= ends_plane ? '0 : y + 1'b1;
      if (ends_plane) z <= z + 1'b1;
    end
  end

  // A row from its beats, the lowest first.
  logic [SUB-1:0] sub;
  logic           ends_row, takes;

  assign ends_row = sub == SUB'(BEATS - 1);
  assign row_ready = beat_valid && ends_row;
  assign takes = beat_valid && writing && !all_written && !is_padding;
  assign beat_ready = writing && !all_written && !is_padding;
  always_ff @(posedge clk) begin
    if (reset) sub <= '0;
    else if (takes) sub <= ends_row ? '0 : sub + 1'b1;
  end

  logic [ROW_BITS-1:0] data;
  if (BEATS == 1) begin : whole
    assign data = beat;
  end else begin : parts
    logic [ROW_BITS-DRAM_BITS-1:0] earlier;
    assign data = {beat, earlier};
    always_ff @(posedge clk) if (takes) earlier <= data[ROW_BITS-1:DRAM_BITS];
  end

  // A row beyond the buffer belongs to an instruction that the first half will refuse.
  logic row_in_range;
  assign row_in_range = row < rows_of(work.buffer);
  assign inp_write = writes && row_in_range && work.buffer == isa_pkg::BUFFER_INP;
  assign wgt_write = writes && row_in_range && work.buffer == isa_pkg::BUFFER_WGT;
  assign prm_write = writes && row_in_range && work.buffer == isa_pkg::BUFFER_PRM;
  assign write_row = row[15:0];
  assign write_data = is_padding ? {N{work.pad_value}} : data;

  // ---- Completion ---------------------------------------------------------------------------------------
  // Instructions whose lines were all in range and that are not complete.
  logic [1:0] in_range;
  logic       bus_fault;

  assign retires = writing && all_written && in_range != '0;
  assign give = retires && !bus_fault;   // after an error beats are still taken, so that the bus is free
  assign gives = {work.push_next, work.push_previous};
  assign fault = bus_fault ? isa_pkg::FAULT_BUS : walk_fault;
  assign busy = (head_valid && grant && !halt && fault == isa_pkg::FAULT_NONE)
      || (walk_busy && !halt && walk_fault == isa_pkg::FAULT_NONE) || request_valid
      || expected != '0 || (writing && pads && !all_written) || retires
      || (work_valid && !writing);

  always_ff @(posedge clk) begin
    if (reset) begin
      in_range <= '0;
      expected <= '0;
      bus_fault <= 1'b0;
    end else begin
      in_range <= in_range + 2'(walk_done) - 2'(retires);
      expected <= expected + (request_valid && request_ready ? 32'(request_rows) : '0)
          - 32'(writes && !is_padding);
      if (takes && beat_error) bus_fault <= 1'b1;
    end
  end

  logic unused;
  assign unused = &{1'b0, walk_sram, walk_last, head, work};
endmodule
