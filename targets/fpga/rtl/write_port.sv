// The AXI4 write port of STORE. The address channel has a register, so that an address once shown does not change.
module write_port #(
    parameter int DRAM_BITS = 128,
    parameter int ROW_BYTES = 16,
    parameter int ADDRESS_BITS = 40,
    localparam int BEATS_PER_ROW = 8 * ROW_BYTES / DRAM_BITS,
    localparam int ROW_SHIFT = $clog2(ROW_BYTES)
) (
    input  logic                    clk,
    input  logic                    reset,
    input  logic [ADDRESS_BITS-1:0] base,

    input  logic                    request_valid,
    output logic                    request_ready,
    input  logic [31:0]             request_row,
    input  logic [8:0]              request_rows,

    output logic                    awvalid,
    input  logic                    awready,
    output logic [ADDRESS_BITS-1:0] awaddr,
    output logic [7:0]              awlen
);
  assign request_ready = !awvalid || awready;

  always_ff @(posedge clk) begin
    if (reset) awvalid <= 1'b0;
    else if (request_ready) awvalid <= request_valid;
    if (request_ready) begin
      awaddr <= base + (ADDRESS_BITS'(request_row) << ROW_SHIFT);
      awlen <= 8'(request_rows * 9'(BEATS_PER_ROW) - 9'd1);
    end
  end
endmodule
