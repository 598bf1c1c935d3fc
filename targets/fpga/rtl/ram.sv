// A memory with one write port and one read port, which synthesis maps to block RAM.
//
// A read takes one cycle; `read_data` holds its value while `read_enable` is low. Reading a row in the very
// cycle in which it is written gives the old contents or garbage: no user of this module does that.
module ram #(
    parameter int WIDTH = 128,
    parameter int DEPTH = 1024,
    localparam int ADDRESS = $clog2(DEPTH)
) (
    input  logic               clk,
    input  logic               write_enable,
    input  logic [ADDRESS-1:0] write_address,
    input  logic [WIDTH-1:0]   write_data,
    input  logic               read_enable,
    input  logic [ADDRESS-1:0] read_address,
    output logic [WIDTH-1:0]   read_data
);
  logic [WIDTH-1:0] rows [0:DEPTH-1];

  always_ff @(posedge clk) begin
    if (write_enable) rows[write_address] <= write_data;
    if (read_enable) read_data <= rows[read_address];
  end
endmodule
