// The registers on the AXI4-Lite control port: where the program is, the doorbell, what became of it, and counters.
//
// One transaction at a time each way. Reads of unknown offsets give 0, writes to them do nothing.
module registers #(
    parameter int ADDRESS_BITS = 40,
    parameter logic [31:0] CONFIGURATION = 0
) (
    input  logic                    clk,
    input  logic                    reset,

    input  logic                    awvalid,
    output logic                    awready,
    input  logic [7:0]              awaddr,
    input  logic                    wvalid,
    output logic                    wready,
    input  logic [31:0]             wdata,
    output logic                    bvalid,
    input  logic                    bready,
    input  logic                    arvalid,
    output logic                    arready,
    input  logic [7:0]              araddr,
    output logic                    rvalid,
    input  logic                    rready,
    output logic [31:0]             rdata,

    output logic                    start,          // a pulse
    output logic                    halt,           // start and ask for nothing more; stays until the next start
    output logic                    done,
    output logic [ADDRESS_BITS-1:0] base,
    output logic [31:0]             limit,
    output logic [31:0]             program_row,
    output logic [31:0]             length,

    input  logic                    quiet,          // nothing moves
    input  logic                    complete,       // FINISH and all instructions are complete
    input  logic [15:0]             unit_faults,    // fetch, LOAD, EXEC, STORE, from the lowest bits up
    input  logic [2:0]              gives,          // an instruction of the unit is complete
    input  logic                    array_busy,
    input  logic                    waits_for_load,
    input  logic                    waits_for_store
);
  // Cycles for which nothing must have moved: any signal between two units is a register or two long.
  localparam logic [2:0] STILL = 3'd7;

  logic        running;
  logic [3:0]  core_fault;
  logic [2:0]  still;
  logic [31:0] base_low, base_high, cycles, array_cycles, load_waits, store_waits;
  logic [31:0] loads, execs, stores;
  logic        writes, stops, deadlocked;

  // A write is taken when both its address and its data are there.
  assign writes = awvalid && wvalid && !bvalid;
  assign awready = writes;
  assign wready = writes;
  assign arready = !rvalid;
  assign start = writes && awaddr == isa_pkg::REGISTER_CONTROL && wdata[0] && !running;
  assign stops = running && still == STILL;
  assign deadlocked = !complete && unit_faults == '0;
  assign base = ADDRESS_BITS'({base_high, base_low});

  always_ff @(posedge clk) begin
    if (reset) begin
      bvalid <= 1'b0;
      running <= 1'b0;
      done <= 1'b0;
      halt <= 1'b0;
      core_fault <= isa_pkg::FAULT_NONE;
    end else begin
      bvalid <= writes || (bvalid && !bready);
      if (writes && !running) begin
        case (awaddr)
          isa_pkg::REGISTER_BASE_LOW:  base_low <= wdata;
          isa_pkg::REGISTER_BASE_HIGH: base_high <= wdata;
          isa_pkg::REGISTER_LIMIT:     limit <= wdata;
          isa_pkg::REGISTER_PROGRAM:   program_row <= wdata;
          isa_pkg::REGISTER_LENGTH:    length <= wdata;
          default: ;
        endcase
      end
      if (start) begin
        running <= 1'b1;
        done <= 1'b0;
        halt <= 1'b0;
        core_fault <= isa_pkg::FAULT_NONE;
      end else if (stops) begin
        running <= 1'b0;
        done <= 1'b1;
        if (halt) core_fault <= isa_pkg::FAULT_ABORTED;
        else core_fault <= deadlocked ? isa_pkg::FAULT_DEADLOCK : isa_pkg::FAULT_NONE;
      end else if (running && writes && awaddr == isa_pkg::REGISTER_CONTROL && wdata[1]) begin
        halt <= 1'b1;
      end
    end
  end

  always_ff @(posedge clk) begin
    if (start) begin
      still <= '0;
      {cycles, array_cycles, load_waits, store_waits, loads, execs, stores} <= '0;
    end else if (running) begin
      still <= quiet ? still + 1'b1 : '0;
      cycles <= cycles + 1'b1;
      array_cycles <= array_cycles + 32'(array_busy);
      load_waits <= load_waits + 32'(waits_for_load);
      store_waits <= store_waits + 32'(waits_for_store);
      loads <= loads + 32'(gives[0]);
      execs <= execs + 32'(gives[1]);
      stores <= stores + 32'(gives[2]);
    end
  end

  always_ff @(posedge clk) begin
    if (reset) rvalid <= 1'b0;
    else rvalid <= arvalid && arready || (rvalid && !rready);
    if (arvalid && arready) begin
      case (araddr)
        isa_pkg::REGISTER_IDENTITY:        rdata <= isa_pkg::IDENTITY;
        isa_pkg::REGISTER_STATUS:
          rdata <= {29'b0, done && (core_fault != '0 || unit_faults != '0), done, running};
        isa_pkg::REGISTER_FAULTS:          rdata <= {12'b0, core_fault, unit_faults};
        isa_pkg::REGISTER_BASE_LOW:        rdata <= base_low;
        isa_pkg::REGISTER_BASE_HIGH:       rdata <= base_high;
        isa_pkg::REGISTER_LIMIT:           rdata <= limit;
        isa_pkg::REGISTER_PROGRAM:         rdata <= program_row;
        isa_pkg::REGISTER_LENGTH:          rdata <= length;
        isa_pkg::REGISTER_CYCLES:          rdata <= cycles;
        isa_pkg::REGISTER_LOADS:           rdata <= loads;
        isa_pkg::REGISTER_EXECS:           rdata <= execs;
        isa_pkg::REGISTER_STORES:          rdata <= stores;
        isa_pkg::REGISTER_ARRAY_CYCLES:    rdata <= array_cycles;
        isa_pkg::REGISTER_WAITS_FOR_LOAD:  rdata <= load_waits;
        isa_pkg::REGISTER_WAITS_FOR_STORE: rdata <= store_waits;
        isa_pkg::REGISTER_CONFIGURATION:   rdata <= CONFIGURATION;
        default:                           rdata <= '0;
      endcase
    end
  end
endmodule
