// One AXI4 read port for fetch and LOAD: fetch goes first, and beats find their way back by the transaction's ID.
//
// The address channel has a register, so that an address once shown does not change.
module read_port #(
    parameter int DRAM_BITS = 128,
    parameter int ROW_BYTES = 16,
    parameter int ADDRESS_BITS = 40,
    localparam int BEATS_PER_ROW = 8 * ROW_BYTES / DRAM_BITS,
    localparam int ROW_SHIFT = $clog2(ROW_BYTES)
) (
    input  logic                    clk,
    input  logic                    reset,
    input  logic [ADDRESS_BITS-1:0] base,

    input  logic                    fetch_valid,
    output logic                    fetch_ready,
    input  logic [31:0]             fetch_row,
    input  logic [8:0]              fetch_rows,
    output logic                    fetch_beat_valid,

    input  logic                    load_valid,
    output logic                    load_ready,
    input  logic [31:0]             load_row,
    input  logic [8:0]              load_rows,
    output logic                    load_beat_valid,
    input  logic                    load_beat_ready,

    output logic [DRAM_BITS-1:0]    beat,
    output logic                    beat_error,

    output logic                    arvalid,
    input  logic                    arready,
    output logic [ADDRESS_BITS-1:0] araddr,
    output logic [7:0]              arlen,
    output logic                    arid,
    input  logic                    rvalid,
    output logic                    rready,
    input  logic [DRAM_BITS-1:0]    rdata,
    input  logic [1:0]              rresp,
    input  logic                    rid
);
  localparam logic FETCH = 1'b0;

  logic        is_free;
  logic [31:0] row;
  logic [8:0]  rows;

  assign is_free = !arvalid || arready;
  assign fetch_ready = is_free;
  assign load_ready = is_free && !fetch_valid;
  assign row = fetch_valid ? fetch_row : load_row;
  assign rows = fetch_valid ? fetch_rows : load_rows;

  always_ff @(posedge clk) begin
    if (reset) arvalid <= 1'b0;
    else if (is_free) arvalid <= fetch_valid || load_valid;
    if (is_free) begin
      araddr <= base + (ADDRESS_BITS'(row) << ROW_SHIFT);
      arlen <= 8'(rows * 9'(BEATS_PER_ROW) - 9'd1);
      arid <= !fetch_valid;
    end
  end

  assign beat = rdata;
  assign beat_error = rresp != 2'b00;
  assign fetch_beat_valid = rvalid && rid == FETCH;
  assign load_beat_valid = rvalid && rid != FETCH;
  assign rready = rid == FETCH || load_beat_ready;
endmodule
