// Walks over the lines of a transfer and cuts them into bursts; LOAD and STORE have one each.
//
// A transfer is nz planes of ny lines of nx rows of DRAM. In the buffer the rows lie one after the other, lines
// and planes of padding among them. Each line is checked against the end of the buffer and of DRAM before any
// of it is requested; the first that fails stops the walk for good, with a fault.
//
// A burst never crosses an address that is a multiple of BURST_ROWS rows, hence no boundary of 4 KiB.
module line_requests #(
    parameter int BURST_ROWS = 64
) (
    input  logic        clk,
    input  logic        reset,
    input  logic [31:0] limit,        // rows of DRAM

    input  logic        halt,         // request nothing more
    input  logic        start,        // takes the transfer below; only while not busy
    input  logic [16:0] buffer_rows,
    input  logic [15:0] sram,
    input  logic [31:0] dram,
    input  logic [15:0] nx, ny, nz,
    input  logic [3:0]  pad_left, pad_right, pad_top, pad_bottom,
    input  logic [31:0] stride_y, stride_z,
    output logic        busy,         // lines or bursts of the transfer are left
    output logic        done,         // a pulse: the last burst was handed over, or is in the register below
    output logic [3:0]  fault,        // stays until reset

    output logic        burst_valid,
    input  logic        burst_ready,
    output logic [31:0] burst_dram,
    output logic [15:0] burst_sram,
    output logic [8:0]  burst_rows,
    output logic        burst_last    // the transfer's last
);
  localparam int OFFSET = $clog2(BURST_ROWS);

  // The walk over lines, padding lines included.
  logic        walking;
  logic [17:0] position;              // buffer row of the line
  logic [31:0] line, plane;
  logic [15:0] lines_left, planes_left;
  logic [4:0]  top_left, bottom_left;
  logic [16:0] walk_rows;
  logic [15:0] walk_nx, walk_ny;
  logic [3:0]  walk_left, walk_top, walk_bottom;
  logic [16:0] width;
  logic [31:0] walk_stride_y, walk_stride_z;

  logic        is_padding, ends_plane, ends_walk, sram_fails, dram_fails, steps;
  logic        line_taken;

  assign is_padding = top_left != 0 || lines_left == 0;
  assign ends_plane = top_left == 0
      && ((lines_left == 1 && bottom_left == 0) || (lines_left == 0 && bottom_left == 1));
  assign ends_walk = ends_plane && planes_left == 1;
  assign sram_fails = position + 18'(width) > 18'(walk_rows);
  assign dram_fails = !is_padding && 33'(line) + 33'(walk_nx) > 33'(limit);
  assign steps = walking && !halt && fault == isa_pkg::FAULT_NONE && !sram_fails && !dram_fails
      && (is_padding || line_taken);

  always_ff @(posedge clk) begin
    if (reset) begin
      walking <= 1'b0;
      fault <= isa_pkg::FAULT_NONE;
    end else if (start) begin
      walking <= 1'b1;
      position <= 18'(sram);
      line <= dram;
      plane <= dram;
      lines_left <= ny;
      planes_left <= nz;
      top_left <= 5'(pad_top);
      bottom_left <= 5'(pad_bottom);
      walk_rows <= buffer_rows;
      walk_nx <= nx;
      walk_ny <= ny;
      walk_left <= pad_left;
      walk_top <= pad_top;
      walk_bottom <= pad_bottom;
      width <= 17'(nx) + 17'(pad_left) + 17'(pad_right);
      walk_stride_y <= stride_y;
      walk_stride_z <= stride_z;
    end else if (walking && fault == isa_pkg::FAULT_NONE) begin
      if (sram_fails) fault <= isa_pkg::FAULT_SRAM_RANGE;
      else if (dram_fails) fault <= isa_pkg::FAULT_DRAM_RANGE;
      if (steps) begin
        position <= position + 18'(width);
        if (ends_walk) walking <= 1'b0;
        if (ends_plane) begin
          top_left <= 5'(walk_top);
          bottom_left <= 5'(walk_bottom);
          lines_left <= walk_ny;
          planes_left <= planes_left - 1'b1;
          plane <= plane + walk_stride_z;
          line <= plane + walk_stride_z;
        end else if (top_left != 0) begin
          top_left <= top_left - 1'b1;
        end else if (lines_left != 0) begin
          lines_left <= lines_left - 1'b1;
          line <= line + walk_stride_y;
        end else begin
          bottom_left <= bottom_left - 1'b1;
        end
      end
    end
  end

  // The line being cut into bursts.
  logic        cutting;
  logic [31:0] cut_dram;
  logic [15:0] cut_sram;
  logic [15:0] rows_left;
  logic        cut_last;              // the transfer's last line of data
  logic [15:0] to_boundary, rows;
  logic        ends_cut;

  assign to_boundary = 16'(BURST_ROWS) - 16'(cut_dram[OFFSET-1:0]);
  assign rows = rows_left < to_boundary ? rows_left : to_boundary;
  assign ends_cut = rows == rows_left;
  assign burst_valid = cutting && !halt;
  assign burst_dram = cut_dram;
  assign burst_sram = cut_sram;
  assign burst_rows = rows[8:0];
  assign burst_last = cut_last && ends_cut;
  assign line_taken = !is_padding && (!cutting || (burst_ready && ends_cut));

  always_ff @(posedge clk) begin
    if (reset) begin
      cutting <= 1'b0;
    end else if (steps && !is_padding) begin
      cutting <= 1'b1;
      cut_dram <= line;
      cut_sram <= 16'(position) + 16'(walk_left);
      rows_left <= walk_nx;
      cut_last <= planes_left == 1 && lines_left == 1;
    end else if (burst_valid && burst_ready) begin
      cutting <= !ends_cut;
      cut_dram <= cut_dram + 32'(rows);
      cut_sram <= cut_sram + rows;
      rows_left <= rows_left - rows;
    end
  end

  assign busy = walking || cutting;
  assign done = steps && ends_walk;

  logic unused;
  assign unused = &{1'b0, rows[15:9]};
endmodule
