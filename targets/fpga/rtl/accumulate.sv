// The accumulators: N sums of 32 bits for each pixel of a tile.
//
// A pixel's accumulators are read in the cycle before its sums leave the array (`early`), modified in the next,
// and written in the one after. So a row may be visited again three cycles later, not sooner; `sweep` sees to it.
module accumulate #(
    parameter int N = 16,
    parameter int ACC_ROWS = 2048,
    localparam int SUM = isa_pkg::IMMEDIATE_BITS + 8,
    localparam int ADDRESS = $clog2(ACC_ROWS)
) (
    input  logic               clk,
    input  logic               early,       // a pixel's sums come in the next cycle
    input  logic [ADDRESS-1:0] row,         // its accumulators
    input  logic               writes,      // do not modify: the first tap of an instruction with init
    input  logic               takes_max,
    input  logic [SUM*N-1:0]   sums,
    output logic [32*N-1:0]    modified     // two cycles after `early`
);
  logic               valid, valid_late, writes_late, takes_max_late;
  logic [ADDRESS-1:0] row_late, row_last;
  logic [32*N-1:0]    read;

  ram #(.WIDTH(32 * N), .DEPTH(ACC_ROWS)) accumulators (
      .clk,
      .write_enable(valid_late), .write_address(row_last), .write_data(modified),
      .read_enable(early), .read_address(row), .read_data(read)
  );

  always_ff @(posedge clk) begin
    valid <= early;
    row_late <= row;
    writes_late <= writes;
    takes_max_late <= takes_max;
    valid_late <= valid;
    row_last <= row_late;
  end

  for (genvar k = 0; k < N; k++) begin : lanes
    logic signed [31:0] old, sum;
    assign old = read[32*k +: 32];
    assign sum = 32'($signed(sums[SUM*k +: SUM]));
    always_ff @(posedge clk) begin
      if (writes_late || (takes_max_late && sum > old)) modified[32*k +: 32] <= sum;
      else if (takes_max_late) modified[32*k +: 32] <= old;
      else modified[32*k +: 32] <= old + sum;
    end
  end
endmodule
