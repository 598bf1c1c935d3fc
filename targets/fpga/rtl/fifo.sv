// A queue whose oldest entry is visible at `head` while `head_valid` (first word falls through).
//
// DEPTH is a power of two. `push` into a full queue and `pop` of an empty one are the user's faults; `full` and
// `head_valid` depend on registers only.
module fifo #(
    parameter int WIDTH = 32,
    parameter int DEPTH = 16,
    localparam int ADDRESS = $clog2(DEPTH)
) (
    input  logic             clk,
    input  logic             reset,
    input  logic             push,
    input  logic [WIDTH-1:0] entry,
    output logic             full,
    input  logic             pop,
    output logic             head_valid,
    output logic [WIDTH-1:0] head
);
  logic [WIDTH-1:0] entries [0:DEPTH-1];
  // One bit more than an address, so that full and empty differ.
  logic [ADDRESS:0] written, taken;

  assign head_valid = written != taken;
  assign full = written == (taken ^ {1'b1, {ADDRESS{1'b0}}});
  assign head = entries[taken[ADDRESS-1:0]];

  always_ff @(posedge clk) begin
    if (push) entries[written[ADDRESS-1:0]] <= entry;
    if (reset) begin
      written <= '0;
      taken <= '0;
    end else begin
      if (push) written <= written + 1'b1;
      if (pop) taken <= taken + 1'b1;
    end
  end
endmodule
