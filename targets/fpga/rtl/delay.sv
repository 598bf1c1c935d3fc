// `out` is `in` CYCLES cycles later. Synthesis maps it to shift registers, or to flip-flops where `reset` clears it.
module delay #(
    parameter int WIDTH = 1,
    parameter int CYCLES = 1
) (
    input  logic             clk,
    input  logic [WIDTH-1:0] in,
    output logic [WIDTH-1:0] out
);
  logic [WIDTH*CYCLES-1:0] line;

  if (CYCLES == 1) begin : one
    always_ff @(posedge clk) line <= in;
  end else begin : many
    always_ff @(posedge clk) line <= {line[WIDTH*(CYCLES-1)-1:0], in};
  end
  assign out = line[WIDTH*CYCLES-1 -: WIDTH];
endmodule
