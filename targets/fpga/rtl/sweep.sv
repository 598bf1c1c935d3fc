// Issues the pixels of an EXEC instruction: one input row a cycle, for each tap all of its pixels.
//
// Two visits to one accumulator are at least VISIT_GAP cycles apart, which is how long an accumulator takes to be
// read, added to and written: taps of fewer pixels are stretched, and instructions are kept apart.
module sweep #(
    parameter int INP_ROWS = 8192,
    parameter int ACC_ROWS = 2048,
    parameter int OUT_ROWS = 2048,
    parameter int GROUPS = 64
) (
    input  logic           clk,
    input  logic           reset,
    output logic           busy,
    output logic           failed,         // a row beyond a buffer; stays until reset
    input  logic           loader_failed,
    input  logic           halt,           // issue no pixel more

    input  logic           start,          // the instruction below begins after the current one
    input  isa_pkg::exec_t instruction,
    output logic           ready,          // there is room for it

    input  logic           tile_ready,
    output logic           tile_taken,

    input  logic           context_full,
    output logic           context_push,   // an instruction begins: `context_entry`
    output isa_pkg::exec_t context_entry,

    output logic           issue,          // read input row `row`
    output logic [15:0]    row,
    output logic           begins_sweep,   // the tap's first pixel
    output logic           swaps,          // with it, the shadow weights become active
    output logic           first_tap,
    output logic           last_tap,
    output logic           ends            // the instruction's last pixel
);
  localparam int VISIT_GAP = 3;

  // The instruction that follows waits here.
  isa_pkg::exec_t current, following;
  logic           has_following, active, takes;

  assign ready = !has_following;

  // Counters of the loop nest, and the rows where each loop's current turn began.
  logic [15:0] ic, ox, oy;
  logic [7:0]  ky, kx;
  logic [15:0] row_ic, row_ky, row_kx, row_y;
  logic [16:0] pixel;
  logic [1:0]  gap;                        // cycles until the next pixel may be issued
  logic [1:0]  since;                      // pixels of the tap, up to VISIT_GAP
  logic        first_pixel, last_x, last_pixel, last_kx, last_ky, last_ic, needs_tile, is_scaled;
  logic        in_range, may_issue;

  assign is_scaled = current.mode == isa_pkg::MODE_SCALE || current.mode == isa_pkg::MODE_MAX;
  assign first_pixel = pixel == '0;
  assign last_x = ox == current.nx - 1'b1;
  assign last_pixel = last_x && oy == current.ny - 1'b1;
  assign last_kx = kx == current.n_kx - 1'b1;
  assign last_ky = ky == current.n_ky - 1'b1;
  assign last_ic = ic == current.n_ic - 1'b1;
  assign first_tap = ic == '0 && ky == '0 && kx == '0;
  assign last_tap = last_kx && last_ky && last_ic;
  assign needs_tile = first_pixel && (!is_scaled || first_tap);
  assign in_range = 17'(row) < 17'(INP_ROWS)
      && 18'(current.acc) + 18'(pixel) < 18'(ACC_ROWS)
      && (!current.flush || (18'(current.out) + 18'(pixel) < 18'(OUT_ROWS)
                             && 17'(current.prm) < 17'(GROUPS)));
  assign may_issue = active && !failed && !halt && gap == '0 && (!needs_tile || tile_ready);
  assign issue = may_issue && in_range;
  assign begins_sweep = first_pixel;
  assign swaps = issue && needs_tile;
  assign tile_taken = swaps;
  assign ends = last_pixel && last_tap;

  // The next instruction is taken as the last pixel of this one goes.
  assign takes = has_following && !failed && !halt && !context_full && (!active || (issue && ends));
  assign context_push = takes;
  assign context_entry = following;

  always_ff @(posedge clk) begin
    if (reset) begin
      active <= 1'b0;
      has_following <= 1'b0;
      failed <= 1'b0;
      gap <= '0;
    end else begin
      if (start) following <= instruction;
      has_following <= start || (has_following && !takes);
      if (may_issue && !in_range) failed <= 1'b1;

      if (gap != '0) gap <= gap - 1'b1;
      if (issue && last_pixel && (ends || since != 2'(VISIT_GAP - 1)))
        gap <= ends ? 2'(VISIT_GAP - 1) : 2'(VISIT_GAP - 1) - since;

      if (takes) active <= 1'b1;
      else if (issue && ends) active <= 1'b0;
    end

    if (takes) begin
      current <= following;
      {ic, ky, kx, oy, ox, pixel, since} <= '0;
      {row, row_y, row_kx, row_ky, row_ic} <= {5{following.inp}};
    end else if (issue) begin
      if (!last_pixel) begin
        pixel <= pixel + 1'b1;
        if (since != 2'(VISIT_GAP - 1)) since <= since + 1'b1;
        ox <= last_x ? '0 : ox + 1'b1;
        if (last_x) begin
          oy <= oy + 1'b1;
          row_y <= row_y + current.stride_y;
          row <= row_y + current.stride_y;
        end else begin
          row <= row + current.stride_x;
        end
      end else begin
        {oy, ox, pixel, since} <= '0;
        kx <= last_kx ? '0 : kx + 1'b1;
        if (!last_kx) begin
          row_kx <= row_kx + 16'(current.stride_kx);
          {row, row_y} <= {2{row_kx + 16'(current.stride_kx)}};
        end else begin
          ky <= last_ky ? '0 : ky + 1'b1;
          if (!last_ky) begin
            {row_ky, row_kx, row, row_y} <= {4{row_ky + current.stride_ky}};
          end else begin
            ic <= ic + 1'b1;
            {row_ic, row_ky, row_kx, row, row_y} <= {5{row_ic + current.stride_ic}};
          end
        end
      end
    end
  end

  // Waiting for a tile that the loader cannot load is no activity.
  assign busy = (active && !failed && !halt && !(needs_tile && !tile_ready && loader_failed)) || takes;

  logic unused;
  assign unused = &{1'b0, current};
endmodule
