// The weight-stationary array: N rows of N multipliers.
//
// A pixel's byte k enters row k after k cycles, so that sums ripple down with it, one row a cycle; the swap of
// weights ripples in the same way. Sums leave LATENCY = N + 2 cycles after the pixel entered.
module array #(
    parameter int N = 16,
    localparam int ROW_BITS = 8 * N,
    localparam int WEIGHT = isa_pkg::IMMEDIATE_BITS,
    localparam int SUM = WEIGHT + 8,
    localparam int LANE = $clog2(N)
) (
    input  logic                     clk,
    input  logic [ROW_BITS-1:0]      data,
    input  logic                     swap,
    input  logic                     shadow_write,
    input  logic [LANE-1:0]          shadow_row,
    input  logic                     shadow_diagonal,
    input  logic                     shadow_immediate,
    input  logic signed [WEIGHT-1:0] immediate,
    input  logic [ROW_BITS-1:0]      weights,
    output logic [SUM*N-1:0]         sums
);
  // Wires between rows: row k takes chain k and gives chain k + 1.
  logic [SUM*N*(N+1)-1:0] chain;
  logic [N-1:0]           swaps;

  assign chain[SUM*N-1:0] = '0;
  assign sums = chain[SUM*N*N +: SUM*N];

  // swaps[k] is `swap` k cycles later.
  assign swaps[0] = swap;
  for (genvar k = 1; k < N; k++) begin : swap_delay
    logic delayed;
    always_ff @(posedge clk) delayed <= swaps[k-1];
    assign swaps[k] = delayed;
  end

  for (genvar k = 0; k < N; k++) begin : rows
    logic signed [7:0] skewed;          // the byte k cycles later

    if (k == 0) begin : first
      assign skewed = data[7:0];
    end else if (k == 1) begin : second
      logic [7:0] line;
      always_ff @(posedge clk) line <= data[15:8];
      assign skewed = line;
    end else begin : others
      logic [8*k-1:0] line;
      always_ff @(posedge clk) line <= {line[8*k-9:0], data[8*k +: 8]};
      assign skewed = line[8*k-8 +: 8];
    end

    array_row #(.N(N), .ROW(k)) row (
        .clk, .data(skewed), .swap(swaps[k]),
        .shadow_write, .shadow_row, .shadow_diagonal, .shadow_immediate, .immediate, .weights,
        .sums_in(chain[SUM*N*k +: SUM*N]), .sums_out(chain[SUM*N*(k+1) +: SUM*N])
    );
  end
endmodule
