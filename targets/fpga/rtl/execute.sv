// EXEC: from the queue through weights, array and accumulators to requantised rows in the output buffer.
//
//   queue -> weight_loader -> sweep -> INP -> array -> accumulate -> requantise -> OUT
//                 |                             ^
//                 +------- WGT -> shadow -------+
//
// A pixel that is issued in cycle 0 reaches the array in 1, its accumulators are read in N + 2, modified in N + 3,
// and its result is written to OUT in N + 11. What belongs to the instruction and not to the pixel waits in
// `contexts`, which is taken when the instruction's last pixel comes by; consecutive instructions overlap.
module execute #(
    parameter int N = 16,
    parameter int INP_ROWS = 8192,
    parameter int WGT_ROWS = 8192,
    parameter int ACC_ROWS = 2048,
    parameter int OUT_ROWS = 2048,
    parameter int PRM_ROWS = 512,
    localparam int ROW_BITS = 8 * N,
    localparam int WGT_ADDRESS = $clog2(WGT_ROWS)
) (
    input  logic                   clk,
    input  logic                   reset,
    input  logic                   halt,        // issue nothing more; what is under way is finished
    output logic                   busy,
    output logic [3:0]             fault,
    output logic                   issues,      // a pixel enters the array

    input  logic                   head_valid,
    input  isa_pkg::exec_t         head,
    input  logic                   grant,
    output logic                   start,
    output logic                   give,
    output logic [1:0]             gives,

    output logic                   inp_read,
    output logic [15:0]            inp_row,
    input  logic [ROW_BITS-1:0]    inp_data,
    output logic                   wgt_read,
    output logic [WGT_ADDRESS-1:0] wgt_row,
    input  logic [ROW_BITS-1:0]    wgt_data,
    input  logic                   prm_write,   // from LOAD
    input  logic [15:0]            prm_row,
    input  logic [ROW_BITS-1:0]    prm_data,
    output logic                   out_write,
    output logic [15:0]            out_row,
    output logic [ROW_BITS-1:0]    out_data
);
  localparam int LANE = $clog2(N);
  localparam int SUM = isa_pkg::IMMEDIATE_BITS + 8;
  localparam int GROUPS = PRM_ROWS / 8;
  localparam int GROUP = $clog2(GROUPS);
  localparam int ACC_ADDRESS = $clog2(ACC_ROWS);
  localparam int TO_ACCUMULATORS = N + 2;
  localparam int REQUANTISE = 7;

  // ---- Issue --------------------------------------------------------------------------------------------
  logic                      loader_busy, loader_failed, sweep_busy, sweep_failed, sweep_ready;
  logic                      tile_ready, tile_taken;
  logic                      shadow_write, shadow_diagonal, shadow_immediate;
  logic [LANE-1:0]           shadow_row;
  logic signed [isa_pkg::IMMEDIATE_BITS-1:0] immediate;
  logic [ROW_BITS-1:0]       weights;
  logic                      context_full, context_push;
  isa_pkg::exec_t            entry;
  logic                      begins_sweep, swaps, first_tap, last_tap, ends;

  weight_loader #(.N(N), .WGT_ROWS(WGT_ROWS)) loader (
      .clk, .reset, .busy(loader_busy), .failed(loader_failed), .frozen(sweep_failed || halt),
      .head_valid, .head, .grant, .start, .sweep_ready,
      .read_enable(wgt_read), .read_row(wgt_row), .read_data(wgt_data),
      .tile_ready, .tile_taken,
      .shadow_write, .shadow_row, .shadow_diagonal, .shadow_immediate, .immediate, .weights
  );

  sweep #(.INP_ROWS(INP_ROWS), .ACC_ROWS(ACC_ROWS), .OUT_ROWS(OUT_ROWS), .GROUPS(GROUPS)) pixels (
      .clk, .reset, .busy(sweep_busy), .failed(sweep_failed), .loader_failed, .halt,
      .start, .instruction(head), .ready(sweep_ready), .tile_ready, .tile_taken,
      .context_full, .context_push, .context_entry(entry),
      .issue(inp_read), .row(inp_row), .begins_sweep, .swaps, .first_tap, .last_tap, .ends
  );

  assign issues = inp_read;
  assign fault = sweep_failed || loader_failed ? isa_pkg::FAULT_SRAM_RANGE : isa_pkg::FAULT_NONE;

  // ---- Array --------------------------------------------------------------------------------------------
  logic               swap_now;
  logic [SUM*N-1:0]   sums;

  delay #(.WIDTH(1), .CYCLES(1)) swap_delay (.clk, .in(swaps), .out(swap_now));
  array #(.N(N)) macs (
      .clk, .data(inp_data), .swap(swap_now),
      .shadow_write, .shadow_row, .shadow_diagonal, .shadow_immediate, .immediate, .weights, .sums
  );

  // ---- Accumulators -------------------------------------------------------------------------------------
  // The pixels under way; bit 0 was issued one cycle ago.
  logic [TO_ACCUMULATORS+REQUANTISE+1:0] under_way;
  logic               early, early_begins, early_first, early_last, early_ends;
  isa_pkg::exec_t     context_now;
  logic               context_valid;
  logic [15:0]        pixel, next_pixel;

  always_ff @(posedge clk) begin
    if (reset) under_way <= '0;
    else under_way <= {under_way[TO_ACCUMULATORS+REQUANTISE:0], inp_read};
  end
  assign early = under_way[TO_ACCUMULATORS-1];
  delay #(.WIDTH(4), .CYCLES(TO_ACCUMULATORS)) to_accumulators (
      .clk, .in({begins_sweep, first_tap, last_tap, ends}),
      .out({early_begins, early_first, early_last, early_ends})
  );

  fifo #(.WIDTH(256), .DEPTH(8)) contexts (
      .clk, .reset, .push(context_push), .entry, .full(context_full),
      .pop(early && early_ends), .head_valid(context_valid), .head(context_now)
  );

  assign pixel = early_begins ? '0 : next_pixel;
  always_ff @(posedge clk) if (early) next_pixel <= pixel + 1'b1;

  logic [32*N-1:0] modified;
  logic [15:0]     acc_row;
  assign acc_row = context_now.acc + pixel;
  accumulate #(.N(N), .ACC_ROWS(ACC_ROWS)) accumulators (
      .clk, .early, .row(acc_row[ACC_ADDRESS-1:0]),
      .writes(early_first && context_now.init),
      .takes_max(context_now.mode == isa_pkg::MODE_MAX),
      .sums, .modified
  );

  // ---- Requantisation -----------------------------------------------------------------------------------
  // What a result still needs, from the cycle in which its accumulators are read; they are modified 2 later.
  logic        flushes, flushes_late;
  logic [15:0] result_row;
  logic [7:0]  zero, low, high;
  logic        raw;
  logic [1:0]  raw_byte;
  logic [GROUP-1:0] group;

  assign flushes = early && early_last && context_now.flush;
  assign result_row = context_now.out + pixel;
  delay #(.WIDTH(GROUP), .CYCLES(1)) to_group (.clk, .in(context_now.prm[GROUP-1:0]), .out(group));
  delay #(.WIDTH(3), .CYCLES(2 + 2)) to_raw (
      .clk, .in({context_now.raw, context_now.raw_byte}), .out({raw, raw_byte})
  );
  delay #(.WIDTH(8), .CYCLES(2 + 5)) to_zero (.clk, .in(context_now.zero), .out(zero));
  delay #(.WIDTH(16), .CYCLES(2 + 6)) to_limits (.clk, .in({context_now.high, context_now.low}), .out({high, low}));
  delay #(.WIDTH(17), .CYCLES(2 + REQUANTISE)) to_out (
      .clk, .in({flushes, result_row}), .out({flushes_late, out_row})
  );
  assign out_write = flushes_late && under_way[TO_ACCUMULATORS+REQUANTISE+1];

  for (genvar k = 0; k < N; k++) begin : lanes
    localparam int PER_ROW = N / 8;   // channels in a row of the parameter buffer
    isa_pkg::parameter_t parameters;

    // Each lane has a memory of its own, so that all channels of a group are read at once.
    ram #(.WIDTH(64), .DEPTH(GROUPS)) entries (
        .clk,
        .write_enable(prm_write && prm_row[2:0] == 3'(k / PER_ROW)),
        .write_address(prm_row[GROUP+2:3]), .write_data(prm_data[64*(k % PER_ROW) +: 64]),
        .read_enable(1'b1), .read_address(group), .read_data(parameters)
    );
    requantise lane (
        .clk, .acc(modified[32*k +: 32]), .parameters, .raw, .raw_byte, .zero, .low, .high, .result(out_data[8*k +: 8])
    );
  end

  // ---- Completion ---------------------------------------------------------------------------------------
  // An instruction is complete when the last pixel's result is written, whether it has one or not.
  logic ends_late;
  delay #(.WIDTH(3), .CYCLES(2 + REQUANTISE + 1)) to_end (
      .clk, .in({early && early_ends, context_now.push_next, context_now.push_previous}),
      .out({ends_late, gives})
  );
  logic was_out;                        // the pixel that ends was not there before the reset
  always_ff @(posedge clk) was_out <= !reset && under_way[TO_ACCUMULATORS+REQUANTISE+1];
  assign give = ends_late && was_out;
  assign busy = loader_busy || sweep_busy || under_way != '0 || was_out;

  logic unused;
  assign unused = &{1'b0, context_now, context_valid, acc_row, prm_row, entry};
endmodule
