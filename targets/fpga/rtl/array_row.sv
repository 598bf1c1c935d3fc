// One row of the array: an input channel, whose byte meets N weights, one for each output channel.
//
// Weights are in two sets: pixels multiply with `active`; `shadow` is loaded meanwhile and swapped in. The one on
// the diagonal is wide: it holds the immediate of SCALE and MAX. Sums come from the row before and go to the next,
// a register each, as DSP slices are cascaded; products have a register of their own.
module array_row #(
    parameter int N = 16,
    parameter int ROW = 0,
    localparam int ROW_BITS = 8 * N,
    localparam int WEIGHT = isa_pkg::IMMEDIATE_BITS,
    localparam int SUM = WEIGHT + 8,
    localparam int LANE = $clog2(N)
) (
    input  logic                     clk,
    input  logic signed [7:0]        data,      // the pixel's byte, in the cycle before it is multiplied
    input  logic                     swap,      // with it the shadow weights become active

    input  logic                     shadow_write,
    input  logic [LANE-1:0]          shadow_row,
    input  logic                     shadow_diagonal,
    input  logic                     shadow_immediate,
    input  logic signed [WEIGHT-1:0] immediate,
    input  logic [ROW_BITS-1:0]      weights,

    input  logic [SUM*N-1:0]         sums_in,
    output logic [SUM*N-1:0]         sums_out
);
  logic signed [7:0] pixel;
  logic              is_loaded;

  assign is_loaded = shadow_write && shadow_row == LANE'(ROW);
  always_ff @(posedge clk) pixel <= data;

  for (genvar column = 0; column < N; column++) begin : cells
    localparam int BITS = column == ROW ? WEIGHT : 8;

    logic signed [7:0]        weight;
    logic signed [BITS-1:0]   shadow, active;
    logic signed [BITS+7:0]   product;
    logic signed [SUM-1:0]    sum;

    assign weight = weights[8*column +: 8];
    always_ff @(posedge clk) begin
      if (is_loaded) begin
        if (column == ROW) shadow <= shadow_immediate ? immediate[BITS-1:0] : BITS'(weight);
        else shadow <= shadow_diagonal ? '0 : BITS'(weight);
      end
      if (swap) active <= shadow;
      product <= (BITS + 8)'(pixel) * (BITS + 8)'(active);
      sum <= $signed(sums_in[SUM*column +: SUM]) + SUM'(product);
    end
    assign sums_out[SUM*column +: SUM] = sum;
  end
endmodule
