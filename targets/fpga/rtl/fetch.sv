// Reads the program in bursts, checks each instruction, and hands it to the queue of its unit, in order.
//
// A program that reaches beyond DRAM is not begun. At an illegal instruction, or after FINISH, nothing more is
// dispatched; beats still under way are read and dropped. A queue takes an instruction while fewer than QUEUE of
// its unit are dispatched and not complete, so what is dispatched before a fault does not depend on timing.
module fetch #(
    parameter int DRAM_BITS = 128,
    parameter int ROW_BYTES = 16,
    parameter int BURST_ROWS = 64,
    parameter int QUEUE = 16
) (
    input  logic         clk,
    input  logic         reset,
    input  logic         start,
    input  logic         halt,       // ask for and dispatch nothing more
    input  logic [31:0]  limit,
    input  logic [31:0]  program_row,
    input  logic [31:0]  length,
    output logic         busy,       // something will still happen without any other unit
    output logic [3:0]   fault,

    output logic         request_valid,
    input  logic         request_ready,
    output logic [31:0]  request_row,
    output logic [8:0]   request_rows,
    input  logic         beat_valid,
    input  logic [DRAM_BITS-1:0] beat,
    input  logic         beat_error,

    output logic [2:0]   dispatch,   // a pulse for each unit's queue
    output logic [255:0] instruction,
    input  logic [2:0]   complete    // a pulse: an instruction of the unit is complete
);
  localparam int ROWS = 32 / ROW_BYTES;             // of one instruction
  localparam int BEATS = 256 / DRAM_BITS;
  localparam int BEATS_PER_ROW = 8 * ROW_BYTES / DRAM_BITS;
  localparam int AHEAD = 8 * BEATS;                 // beats that may be under way or waiting
  localparam int CHUNK_ROWS = 4 * ROWS;             // most rows of a request
  localparam int OFFSET = $clog2(BURST_ROWS);
  localparam int COUNT = $clog2(AHEAD) + 1;
  localparam int OUTSTANDING = $clog2(QUEUE) + 1;

  // Requests. `credit` counts beats that may still be asked for.
  logic [31:0]      row;
  logic [34:0]      rows_left;
  logic [COUNT-1:0] credit, pending;
  logic [15:0]      to_boundary, rows;
  logic [COUNT-1:0] asked;
  logic             stopped, asks, begins, out_of_range;
  logic [35:0]      end_row;

  assign end_row = 36'(program_row) + 36'(length) * 36'(ROWS);
  assign out_of_range = end_row > 36'(limit);
  assign to_boundary = 16'(BURST_ROWS) - 16'(row[OFFSET-1:0]);
  always_comb begin
    rows = 16'(CHUNK_ROWS);
    if (to_boundary < rows) rows = to_boundary;
    if (rows_left < 35'(rows)) rows = rows_left[15:0];
  end
  assign asked = COUNT'(rows * 16'(BEATS_PER_ROW));
  assign begins = rows_left != 0 && !stopped;
  assign request_valid = begins && credit >= asked;
  assign request_row = row;
  assign request_rows = rows[8:0];
  assign asks = request_valid && request_ready;

  // Beats wait here until an instruction is put together; there is room for all that were asked for.
  logic                 stored, stored_valid, stored_full, takes;
  logic [DRAM_BITS:0]   head;

  assign stored = beat_valid;
  fifo #(.WIDTH(DRAM_BITS + 1), .DEPTH(AHEAD)) beats (
      .clk, .reset(reset || start),
      .push(stored), .entry({beat_error, beat}), .full(stored_full),
      .pop(takes), .head_valid(stored_valid), .head
  );

  // The instruction, put together from its lowest beat up.
  logic [255:0]             word;
  logic [$clog2(BEATS):0]   has;
  logic                     word_valid, word_error, legal, is_finish, has_slot, moves, drops;
  logic [1:0]               unit;

  instruction_check check (.word, .legal);
  assign word_valid = has == ($clog2(BEATS) + 1)'(BEATS);
  assign is_finish = word[2:0] == isa_pkg::OP_FINISH;
  assign unit = is_finish ? 2'd2 : word[1:0];
  assign moves = word_valid && legal && !word_error && has_slot && !stopped;
  assign drops = stopped && word_valid;
  assign takes = stored_valid && (!word_valid || moves || drops);
  assign instruction = word;

  // Instructions of each unit that are dispatched and not complete.
  logic [OUTSTANDING-1:0] waiting [0:2];

  assign has_slot = waiting[unit] != OUTSTANDING'(QUEUE);
  for (genvar u = 0; u < 3; u++) begin : slots
    assign dispatch[u] = moves && unit == 2'(u);
    always_ff @(posedge clk) begin
      if (reset || start) waiting[u] <= '0;
      else waiting[u] <= waiting[u] + OUTSTANDING'(dispatch[u]) - OUTSTANDING'(complete[u]);
    end
  end

  always_ff @(posedge clk) begin
    if (takes) begin
      word <= {head[DRAM_BITS-1:0], word[255:DRAM_BITS]};
      word_error <= head[DRAM_BITS] || (word_error && !word_valid && has != '0);
    end
    if (reset || start) begin
      has <= '0;
      stopped <= reset || out_of_range;
      fault <= !reset && out_of_range ? isa_pkg::FAULT_DRAM_RANGE : isa_pkg::FAULT_NONE;
      row <= program_row;
      rows_left <= reset ? '0 : 35'(length) * 35'(ROWS);
      credit <= COUNT'(AHEAD);
      pending <= '0;
    end else begin
      if (moves || drops) has <= takes ? ($clog2(BEATS) + 1)'(1) : '0;
      else if (takes) has <= has + 1'b1;
      if (!stopped && word_valid && (word_error || !legal)) begin
        stopped <= 1'b1;
        fault <= word_error ? isa_pkg::FAULT_BUS : isa_pkg::FAULT_ILLEGAL;
      end
      if ((moves && is_finish) || halt) stopped <= 1'b1;
      if (asks) begin
        row <= row + 32'(rows);
        rows_left <= rows_left - 35'(rows);
      end
      credit <= credit - (asks ? asked : '0) + COUNT'(takes);
      pending <= pending + (asks ? asked : '0) - COUNT'(beat_valid);
    end
  end

  // Blocked, not busy: an instruction waits for its queue, and beats are kept behind it.
  assign busy = pending != '0 || request_valid || takes || drops || moves
      || (word_valid && !stopped && (!legal || word_error));

  logic unused;
  assign unused = &{1'b0, stored_full, rows[15:9]};
endmodule
