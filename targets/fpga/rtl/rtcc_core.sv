// The accelerator: an AXI4-Lite port for registers, an AXI4 port to DRAM, and everything between.
//
//                     +-> queue -> load -----> INP, WGT, PRM --+
//   DRAM --> fetch ---+-> queue -> execute <-------------------+
//                     +-> queue -> store <---- OUT <-----------+
//
// LOAD, EXEC and STORE run at once, each its own instructions in order; `tokens` orders them among each other.
// Everything is in rows of N bytes until it reaches a port. See docs/fpga/core.md.
module rtcc_core #(
    parameter int N = 16,              // rows and columns of the array: 8 or 16
    parameter int INP_BYTES = 131072,
    parameter int WGT_BYTES = 131072,
    parameter int ACC_BYTES = 131072,
    parameter int OUT_BYTES = 32768,
    parameter int PRM_BYTES = 8192,
    parameter int DRAM_BITS = 128,     // of a beat; a row is a whole number of beats
    parameter int BURST = 64,          // most beats of a transaction
    parameter int QUEUE = 16,          // instructions of each unit that are dispatched and not complete
    parameter int ADDRESS_BITS = 40
) (
    input  logic                    clk,
    input  logic                    reset,        // synchronous
    output logic                    irq,          // high from done to the next start

    // Registers.
    input  logic                    s_awvalid,
    output logic                    s_awready,
    input  logic [7:0]              s_awaddr,
    input  logic                    s_wvalid,
    output logic                    s_wready,
    input  logic [31:0]             s_wdata,
    output logic                    s_bvalid,
    input  logic                    s_bready,
    output logic [1:0]              s_bresp,
    input  logic                    s_arvalid,
    output logic                    s_arready,
    input  logic [7:0]              s_araddr,
    output logic                    s_rvalid,
    input  logic                    s_rready,
    output logic [31:0]             s_rdata,
    output logic [1:0]              s_rresp,

    // DRAM.
    output logic                    m_arvalid,
    input  logic                    m_arready,
    output logic [ADDRESS_BITS-1:0] m_araddr,
    output logic [7:0]              m_arlen,
    output logic [2:0]              m_arsize,
    output logic [1:0]              m_arburst,
    output logic                    m_arid,
    input  logic                    m_rvalid,
    output logic                    m_rready,
    input  logic [DRAM_BITS-1:0]    m_rdata,
    input  logic [1:0]              m_rresp,
    input  logic                    m_rlast,
    input  logic                    m_rid,
    output logic                    m_awvalid,
    input  logic                    m_awready,
    output logic [ADDRESS_BITS-1:0] m_awaddr,
    output logic [7:0]              m_awlen,
    output logic [2:0]              m_awsize,
    output logic [1:0]              m_awburst,
    output logic                    m_wvalid,
    input  logic                    m_wready,
    output logic [DRAM_BITS-1:0]    m_wdata,
    output logic [DRAM_BITS/8-1:0]  m_wstrb,
    output logic                    m_wlast,
    input  logic                    m_bvalid,
    output logic                    m_bready,
    input  logic [1:0]              m_bresp
);
  localparam int ROW_BITS = 8 * N;
  localparam int BURST_ROWS = BURST * DRAM_BITS / ROW_BITS;
  localparam int INP_ROWS = INP_BYTES / N;
  localparam int WGT_ROWS = WGT_BYTES / N;
  localparam int ACC_ROWS = ACC_BYTES / (4 * N);
  localparam int OUT_ROWS = OUT_BYTES / N;
  localparam int PRM_ROWS = PRM_BYTES / N;
  localparam int INP_ADDRESS = $clog2(INP_ROWS);
  localparam int WGT_ADDRESS = $clog2(WGT_ROWS);
  localparam int OUT_ADDRESS = $clog2(OUT_ROWS);
  localparam logic [31:0] CONFIGURATION =
      32'($clog2(N)) << isa_pkg::CONFIGURATION_N | 32'($clog2(QUEUE)) << isa_pkg::CONFIGURATION_QUEUE
      | 32'(INP_ADDRESS) << isa_pkg::CONFIGURATION_INP | 32'(WGT_ADDRESS) << isa_pkg::CONFIGURATION_WGT
      | 32'($clog2(ACC_ROWS)) << isa_pkg::CONFIGURATION_ACC | 32'(OUT_ADDRESS) << isa_pkg::CONFIGURATION_OUT
      | 32'($clog2(PRM_ROWS)) << isa_pkg::CONFIGURATION_PRM;

  // ---- Control ------------------------------------------------------------------------------------------
  logic                    start, halt, clear;
  logic [ADDRESS_BITS-1:0] base;
  logic [31:0]             limit, program_row, length;
  logic [2:0]              starts, gives, grants, lacks_previous, lacks_next;
  logic [2:0]              head_valid, dispatch;
  logic [1:0]              load_gives, exec_gives, store_gives;
  logic                    fetch_busy, load_busy, exec_busy, store_busy, finished, gives_store, issues;
  logic [3:0]              fetch_fault, load_fault, exec_fault, store_fault;
  logic                    exec_waits;

  assign clear = reset || start;      // every run begins with empty queues and no tokens
  assign s_bresp = 2'b00;
  assign s_rresp = 2'b00;
  assign exec_waits = head_valid[1] && !issues;

  registers #(.ADDRESS_BITS(ADDRESS_BITS), .CONFIGURATION(CONFIGURATION)) control (
      .clk, .reset,
      .awvalid(s_awvalid), .awready(s_awready), .awaddr(s_awaddr),
      .wvalid(s_wvalid), .wready(s_wready), .wdata(s_wdata), .bvalid(s_bvalid), .bready(s_bready),
      .arvalid(s_arvalid), .arready(s_arready), .araddr(s_araddr),
      .rvalid(s_rvalid), .rready(s_rready), .rdata(s_rdata),
      .start, .halt, .done(irq), .base, .limit, .program_row, .length,
      .quiet(!(fetch_busy || load_busy || exec_busy || store_busy)),
      .complete(finished && head_valid == '0),
      .unit_faults({store_fault, exec_fault, load_fault, fetch_fault}),
      .gives({gives_store, gives[1:0]}),
      .array_busy(issues),
      .waits_for_load(exec_waits && lacks_previous[1]),
      .waits_for_store(exec_waits && !lacks_previous[1] && lacks_next[1])
  );

  // ---- Instructions -------------------------------------------------------------------------------------
  logic [255:0]   instruction;
  isa_pkg::load_t  load_head;
  isa_pkg::exec_t  exec_head;
  isa_pkg::store_t store_head;
  logic [2:0]      queue_full;

  logic                 fetch_valid, fetch_ready, fetch_beat_valid;
  logic [31:0]          fetch_row;
  logic [8:0]           fetch_rows;
  logic [DRAM_BITS-1:0] read_beat;
  logic                 read_error;

  fetch #(.DRAM_BITS(DRAM_BITS), .ROW_BYTES(N), .BURST_ROWS(BURST_ROWS), .QUEUE(QUEUE)) fetcher (
      .clk, .reset, .start, .halt, .limit, .program_row, .length, .busy(fetch_busy), .fault(fetch_fault),
      .request_valid(fetch_valid), .request_ready(fetch_ready),
      .request_row(fetch_row), .request_rows(fetch_rows),
      .beat_valid(fetch_beat_valid), .beat(read_beat), .beat_error(read_error),
      .dispatch, .instruction, .complete(gives)
  );

  fifo #(.WIDTH(256), .DEPTH(QUEUE)) load_queue (
      .clk, .reset(clear), .push(dispatch[0]), .entry(instruction), .full(queue_full[0]),
      .pop(starts[0]), .head_valid(head_valid[0]), .head(load_head)
  );
  fifo #(.WIDTH(256), .DEPTH(QUEUE)) exec_queue (
      .clk, .reset(clear), .push(dispatch[1]), .entry(instruction), .full(queue_full[1]),
      .pop(starts[1]), .head_valid(head_valid[1]), .head(exec_head)
  );
  fifo #(.WIDTH(256), .DEPTH(QUEUE)) store_queue (
      .clk, .reset(clear), .push(dispatch[2]), .entry(instruction), .full(queue_full[2]),
      .pop(starts[2]), .head_valid(head_valid[2]), .head(store_head)
  );

  logic [11:0] wants;
  assign wants[3:0] = head_valid[0] ? {load_head.push_next, load_head.push_previous,
                                       load_head.pop_next, load_head.pop_previous} : '0;
  assign wants[7:4] = head_valid[1] ? {exec_head.push_next, exec_head.push_previous,
                                       exec_head.pop_next, exec_head.pop_previous} : '0;
  assign wants[11:8] = head_valid[2] ? {store_head.push_next, store_head.push_previous,
                                        store_head.pop_next, store_head.pop_previous} : '0;
  tokens ring (
      .clk, .reset(clear), .wants, .start(starts), .gives({store_gives, exec_gives, load_gives}),
      .give(gives), .grant(grants), .lacks_previous, .lacks_next
  );

  // ---- LOAD ---------------------------------------------------------------------------------------------
  logic                load_valid, load_ready, load_beat_valid, load_beat_ready;
  logic [31:0]         load_row;
  logic [8:0]          load_rows;
  logic                inp_write, wgt_write, prm_write;
  logic [15:0]         write_row;
  logic [ROW_BITS-1:0] write_data;

  load #(
      .N(N), .DRAM_BITS(DRAM_BITS), .BURST_ROWS(BURST_ROWS),
      .INP_ROWS(INP_ROWS), .WGT_ROWS(WGT_ROWS), .PRM_ROWS(PRM_ROWS)
  ) loader (
      .clk, .reset(clear), .limit, .halt, .busy(load_busy), .fault(load_fault),
      .head_valid(head_valid[0]), .head(load_head), .grant(grants[0]),
      .start(starts[0]), .give(gives[0]), .gives(load_gives),
      .request_valid(load_valid), .request_ready(load_ready),
      .request_row(load_row), .request_rows(load_rows),
      .beat_valid(load_beat_valid), .beat_ready(load_beat_ready), .beat(read_beat), .beat_error(read_error),
      .inp_write, .wgt_write, .prm_write, .write_row, .write_data
  );

  read_port #(.DRAM_BITS(DRAM_BITS), .ROW_BYTES(N), .ADDRESS_BITS(ADDRESS_BITS)) reads (
      .clk, .reset, .base,
      .fetch_valid, .fetch_ready, .fetch_row, .fetch_rows, .fetch_beat_valid,
      .load_valid, .load_ready, .load_row, .load_rows, .load_beat_valid, .load_beat_ready,
      .beat(read_beat), .beat_error(read_error),
      .arvalid(m_arvalid), .arready(m_arready), .araddr(m_araddr), .arlen(m_arlen), .arid(m_arid),
      .rvalid(m_rvalid), .rready(m_rready), .rdata(m_rdata), .rresp(m_rresp), .rid(m_rid)
  );

  // ---- Buffers ------------------------------------------------------------------------------------------
  logic                   inp_read, wgt_read, out_write, out_read;
  logic [15:0]            inp_row, out_write_row;
  logic [WGT_ADDRESS-1:0] wgt_row;
  logic [OUT_ADDRESS-1:0] out_row;
  logic [ROW_BITS-1:0]    inp_data, wgt_data, out_write_data, out_data;

  ram #(.WIDTH(ROW_BITS), .DEPTH(INP_ROWS)) inp (
      .clk, .write_enable(inp_write), .write_address(write_row[INP_ADDRESS-1:0]), .write_data,
      .read_enable(inp_read), .read_address(inp_row[INP_ADDRESS-1:0]), .read_data(inp_data)
  );
  ram #(.WIDTH(ROW_BITS), .DEPTH(WGT_ROWS)) wgt (
      .clk, .write_enable(wgt_write), .write_address(write_row[WGT_ADDRESS-1:0]), .write_data,
      .read_enable(wgt_read), .read_address(wgt_row), .read_data(wgt_data)
  );
  ram #(.WIDTH(ROW_BITS), .DEPTH(OUT_ROWS)) out (
      .clk, .write_enable(out_write), .write_address(out_write_row[OUT_ADDRESS-1:0]),
      .write_data(out_write_data),
      .read_enable(out_read), .read_address(out_row), .read_data(out_data)
  );

  // ---- EXEC ---------------------------------------------------------------------------------------------
  execute #(
      .N(N), .INP_ROWS(INP_ROWS), .WGT_ROWS(WGT_ROWS), .ACC_ROWS(ACC_ROWS), .OUT_ROWS(OUT_ROWS),
      .PRM_ROWS(PRM_ROWS)
  ) executer (
      .clk, .reset(clear), .halt, .busy(exec_busy), .fault(exec_fault), .issues,
      .head_valid(head_valid[1]), .head(exec_head), .grant(grants[1]),
      .start(starts[1]), .give(gives[1]), .gives(exec_gives),
      .inp_read, .inp_row, .inp_data, .wgt_read, .wgt_row, .wgt_data,
      .prm_write, .prm_row(write_row), .prm_data(write_data),
      .out_write, .out_row(out_write_row), .out_data(out_write_data)
  );

  // ---- STORE --------------------------------------------------------------------------------------------
  logic        store_valid, store_ready;
  logic [31:0] store_row;
  logic [8:0]  store_rows;

  store #(.N(N), .DRAM_BITS(DRAM_BITS), .BURST_ROWS(BURST_ROWS), .OUT_ROWS(OUT_ROWS)) storer (
      .clk, .reset(clear), .limit, .halt, .busy(store_busy), .fault(store_fault), .finished,
      .head_valid(head_valid[2]), .head(store_head), .grant(grants[2]),
      .start(starts[2]), .give(gives[2]), .gives(store_gives), .gives_store,
      .out_read, .out_row, .out_data,
      .request_valid(store_valid), .request_ready(store_ready),
      .request_row(store_row), .request_rows(store_rows),
      .beat_valid(m_wvalid), .beat_ready(m_wready), .beat(m_wdata), .beat_last(m_wlast),
      .answer_valid(m_bvalid), .answer_error(m_bresp != 2'b00)
  );
  write_port #(.DRAM_BITS(DRAM_BITS), .ROW_BYTES(N), .ADDRESS_BITS(ADDRESS_BITS)) writes (
      .clk, .reset, .base,
      .request_valid(store_valid), .request_ready(store_ready),
      .request_row(store_row), .request_rows(store_rows),
      .awvalid(m_awvalid), .awready(m_awready), .awaddr(m_awaddr), .awlen(m_awlen)
  );
  assign m_bready = 1'b1;

  // Incrementing bursts of whole beats.
  assign m_arsize = 3'($clog2(DRAM_BITS / 8));
  assign m_awsize = 3'($clog2(DRAM_BITS / 8));
  assign m_arburst = 2'b01;
  assign m_awburst = 2'b01;
  assign m_wstrb = '1;

  logic unused;
  assign unused = &{1'b0, lacks_previous, lacks_next, queue_full, m_rlast, inp_row, write_row, out_write_row};
endmodule
