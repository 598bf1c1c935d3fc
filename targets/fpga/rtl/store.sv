// STORE: writes rows of the output buffer to DRAM in bursts, and FINISH.
//
// Requests, rows and answers are three stages; each may work on another instruction. An instruction is complete
// when the memory has answered all of its bursts: then others may read what it wrote.
module store #(
    parameter int N = 16,
    parameter int DRAM_BITS = 128,
    parameter int BURST_ROWS = 64,
    parameter int OUT_ROWS = 2048,
    localparam int ROW_BITS = 8 * N,
    localparam int ADDRESS = $clog2(OUT_ROWS)
) (
    input  logic                 clk,
    input  logic                 reset,
    input  logic [31:0]          limit,
    input  logic                 halt,          // begin no burst more; those under way are finished
    output logic                 busy,
    output logic [3:0]           fault,
    output logic                 finished,      // FINISH is complete; stays until reset

    input  logic                 head_valid,
    input  isa_pkg::store_t      head,
    input  logic                 grant,
    output logic                 start,
    output logic                 give,
    output logic [1:0]           gives,
    output logic                 gives_store,   // what is complete is a STORE, not FINISH

    output logic                 out_read,
    output logic [ADDRESS-1:0]   out_row,
    input  logic [ROW_BITS-1:0]  out_data,

    output logic                 request_valid,
    input  logic                 request_ready,
    output logic [31:0]          request_row,
    output logic [8:0]           request_rows,
    output logic                 beat_valid,
    input  logic                 beat_ready,
    output logic [DRAM_BITS-1:0] beat,
    output logic                 beat_last,
    input  logic                 answer_valid,
    input  logic                 answer_error
);
  localparam int BEATS = ROW_BITS / DRAM_BITS;
  localparam int SUB = BEATS > 1 ? $clog2(BEATS) : 1;
  localparam int BURSTS = 16;                   // that may be under way

  // ---- Instructions -------------------------------------------------------------------------------------
  logic        is_finish, walk_start, walk_busy, walk_done, all_answered, finishes, bus_fault;
  logic [3:0]  walk_fault;

  assign is_finish = head.opcode == isa_pkg::OP_FINISH;
  assign start = head_valid && grant && !halt && !walk_busy && fault == isa_pkg::FAULT_NONE
      && (!is_finish || all_answered);
  assign walk_start = start && !is_finish;
  assign finishes = start && is_finish;

  // ---- Requests -----------------------------------------------------------------------------------------
  logic        burst_valid, burst_ready, burst_last;
  logic [15:0] burst_sram;

  line_requests #(.BURST_ROWS(BURST_ROWS)) requests (
      .clk, .reset, .limit, .halt,
      .start(walk_start), .buffer_rows(17'(OUT_ROWS)),
      .sram(head.sram), .dram(head.dram), .nx(head.nx), .ny(head.ny), .nz(head.nz),
      .pad_left(4'd0), .pad_right(4'd0), .pad_top(4'd0), .pad_bottom(4'd0),
      .stride_y(head.stride_y), .stride_z(head.stride_z),
      .busy(walk_busy), .done(walk_done), .fault(walk_fault),
      .burst_valid, .burst_ready, .burst_dram(request_row), .burst_sram,
      .burst_rows(request_rows), .burst_last
  );

  // The tokens of the instruction whose bursts are being made.
  logic [1:0] walk_gives;
  always_ff @(posedge clk) if (walk_start) walk_gives <= {head.push_next, head.push_previous};

  // A burst is handed over when its address is, and there is room to remember it for its rows and its answer.
  logic rows_full, answers_full, hands_over;
  assign request_valid = burst_valid && !rows_full && !answers_full;
  assign burst_ready = request_ready && !rows_full && !answers_full;
  assign hands_over = request_valid && request_ready;

  // ---- Rows ---------------------------------------------------------------------------------------------
  logic               rows_valid, rows_pop;
  logic [ADDRESS-1:0] rows_sram;
  logic [8:0]         rows_count;

  fifo #(.WIDTH(ADDRESS + 9), .DEPTH(BURSTS)) row_bursts (
      .clk, .reset, .push(hands_over), .entry({burst_sram[ADDRESS-1:0], request_rows}), .full(rows_full),
      .pop(rows_pop), .head_valid(rows_valid), .head({rows_sram, rows_count})
  );

  // The buffer is read one row ahead of the beats: `fresh` is a row on its way out of the buffer, `held` is the
  // row whose beats are being sent.
  logic [8:0]          row_index;
  logic                fresh, fresh_last, held, held_last, ends_row, moves, row_is_last;
  logic [ROW_BITS-1:0] data;
  logic [SUB-1:0]      sub;

  assign ends_row = beat_ready && sub == SUB'(BEATS - 1);
  assign moves = fresh && (!held || ends_row);
  assign out_read = rows_valid && (!fresh || moves);
  assign out_row = rows_sram + ADDRESS'(row_index);
  assign row_is_last = row_index == rows_count - 1'b1;
  assign rows_pop = out_read && row_is_last;
  assign beat_valid = held;
  assign beat = data[DRAM_BITS-1:0];
  assign beat_last = held_last && sub == SUB'(BEATS - 1);

  always_ff @(posedge clk) begin
    if (reset) begin
      fresh <= 1'b0;
      held <= 1'b0;
      row_index <= '0;
      sub <= '0;
    end else begin
      fresh <= out_read || (fresh && !moves);
      held <= moves || (held && !ends_row);
      if (out_read) row_index <= row_is_last ? '0 : row_index + 1'b1;
      if (held && beat_ready) sub <= ends_row ? '0 : sub + 1'b1;
    end
    if (out_read) fresh_last <= row_is_last;
    if (moves) begin
      data <= out_data;
      held_last <= fresh_last;
    end else if (held && beat_ready) begin
      data <= data >> DRAM_BITS;
    end
  end

  // ---- Answers ------------------------------------------------------------------------------------------
  logic       answers_valid, answer_last;
  logic [1:0] answer_gives;

  fifo #(.WIDTH(3), .DEPTH(BURSTS)) answers (
      .clk, .reset, .push(hands_over), .entry({burst_last, walk_gives}), .full(answers_full),
      .pop(answer_valid), .head_valid(answers_valid), .head({answer_last, answer_gives})
  );

  assign all_answered = !answers_valid && !burst_valid;
  assign gives_store = answer_valid && answer_last && !bus_fault && !answer_error;
  assign give = gives_store || finishes;
  assign gives = finishes ? {head.push_next, head.push_previous} : answer_gives;
  assign fault = bus_fault ? isa_pkg::FAULT_BUS : walk_fault;
  assign busy = start || (walk_busy && !halt && walk_fault == isa_pkg::FAULT_NONE) || burst_valid || answers_valid;

  always_ff @(posedge clk) begin
    if (reset) begin
      bus_fault <= 1'b0;
      finished <= 1'b0;
    end else begin
      if (answer_valid && answer_error) bus_fault <= 1'b1;
      if (finishes) finished <= 1'b1;
    end
  end

  logic unused;
  assign unused = &{1'b0, head, burst_sram, walk_done};
endmodule
