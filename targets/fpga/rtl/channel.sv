// Tokens from one unit to a neighbour.
//
// The producer reserves room when an instruction that will push starts, and pushes when it is complete. So a
// push never fails, and a full channel makes the producer wait before it does anything.
module channel (
    input  logic clk,
    input  logic reset,
    input  logic reserve,
    input  logic push,
    input  logic pop,
    output logic has_room,
    output logic has_token
);
  logic [7:0] reserved;  // tokens in the channel and those announced
  logic [7:0] visible;   // tokens in the channel

  assign has_room = reserved != 8'hff;
  assign has_token = visible != 8'h00;

  always_ff @(posedge clk) begin
    if (reset) begin
      reserved <= '0;
      visible <= '0;
    end else begin
      reserved <= reserved + 8'(reserve) - 8'(pop);
      visible <= visible + 8'(push) - 8'(pop);
    end
  end
endmodule
