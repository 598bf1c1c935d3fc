// The instruction set. Generated from targets/fpga/isa/table.py; change that file.

/* verilator lint_off UNUSEDPARAM */  // some are for drivers and tests alone
package isa_pkg;
  localparam logic [2:0] OP_LOAD = 3'h0;
  localparam logic [2:0] OP_EXEC = 3'h1;
  localparam logic [2:0] OP_STORE = 3'h2;
  localparam logic [2:0] OP_FINISH = 3'h3;

  localparam logic [1:0] BUFFER_INP = 2'h0;
  localparam logic [1:0] BUFFER_WGT = 2'h1;
  localparam logic [1:0] BUFFER_PRM = 2'h2;

  localparam logic [1:0] MODE_MATRIX = 2'h0;
  localparam logic [1:0] MODE_CHANNEL = 2'h1;
  localparam logic [1:0] MODE_SCALE = 2'h2;
  localparam logic [1:0] MODE_MAX = 2'h3;

  localparam logic [3:0] FAULT_NONE = 4'h0;
  localparam logic [3:0] FAULT_ILLEGAL = 4'h1;
  localparam logic [3:0] FAULT_SRAM_RANGE = 4'h2;
  localparam logic [3:0] FAULT_DRAM_RANGE = 4'h3;
  localparam logic [3:0] FAULT_BUS = 4'h4;
  localparam logic [3:0] FAULT_DEADLOCK = 4'h5;
  localparam logic [3:0] FAULT_ABORTED = 4'h6;

  // Byte offsets of the registers.
  localparam logic [7:0] REGISTER_IDENTITY = 8'h0;
  localparam logic [7:0] REGISTER_CONTROL = 8'h4;
  localparam logic [7:0] REGISTER_STATUS = 8'h8;
  localparam logic [7:0] REGISTER_FAULTS = 8'hc;
  localparam logic [7:0] REGISTER_BASE_LOW = 8'h10;
  localparam logic [7:0] REGISTER_BASE_HIGH = 8'h14;
  localparam logic [7:0] REGISTER_LIMIT = 8'h18;
  localparam logic [7:0] REGISTER_PROGRAM = 8'h1c;
  localparam logic [7:0] REGISTER_LENGTH = 8'h20;
  localparam logic [7:0] REGISTER_CYCLES = 8'h24;
  localparam logic [7:0] REGISTER_LOADS = 8'h28;
  localparam logic [7:0] REGISTER_EXECS = 8'h2c;
  localparam logic [7:0] REGISTER_STORES = 8'h30;
  localparam logic [7:0] REGISTER_ARRAY_CYCLES = 8'h34;
  localparam logic [7:0] REGISTER_WAITS_FOR_LOAD = 8'h38;
  localparam logic [7:0] REGISTER_WAITS_FOR_STORE = 8'h3c;
  localparam logic [7:0] REGISTER_CONFIGURATION = 8'h40;

  localparam logic [31:0] IDENTITY = 32'h52544302;

  // Lowest bits of the logarithms in CONFIGURATION.
  localparam logic [4:0] CONFIGURATION_N = 5'h0;
  localparam logic [4:0] CONFIGURATION_QUEUE = 5'h3;
  localparam logic [4:0] CONFIGURATION_INP = 5'h6;
  localparam logic [4:0] CONFIGURATION_WGT = 5'hb;
  localparam logic [4:0] CONFIGURATION_ACC = 5'h10;
  localparam logic [4:0] CONFIGURATION_OUT = 5'h15;
  localparam logic [4:0] CONFIGURATION_PRM = 5'h1a;

  // Bits that must be 0; an instruction in which one is set is illegal.
  localparam logic [255:0] LOAD_RESERVED = 256'hffffffffffffff0000000000000000000000000000000000000000000000fe00;
  localparam logic [255:0] STORE_RESERVED = 256'hffffffffffffffff0000000000000000ffff000000000000000000000000ff80;
  localparam logic [255:0] FINISH_RESERVED = 256'hffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff80;
  localparam logic [255:0] EXEC_RESERVED_WITH_WEIGHTS = 256'hf800;
  localparam logic [255:0] EXEC_RESERVED_WITH_IMMEDIATE = 256'h0;

  typedef struct packed {
    logic [55:0] reserved_200;
    logic signed [7:0] pad_value;
    logic [31:0] stride_z;
    logic [31:0] stride_y;
    logic [3:0] pad_bottom;
    logic [3:0] pad_top;
    logic [3:0] pad_right;
    logic [3:0] pad_left;
    logic [15:0] nz;
    logic [15:0] ny;
    logic [15:0] nx;
    logic [31:0] dram;
    logic [15:0] sram;
    logic [6:0] reserved_9;
    logic [1:0] buffer;
    logic push_next;
    logic push_previous;
    logic pop_next;
    logic pop_previous;
    logic [2:0] opcode;
  } load_t;
  typedef struct packed {
    logic [7:0] stride_kx;
    logic signed [7:0] zero;
    logic signed [7:0] high;
    logic signed [7:0] low;
    logic [15:0] stride_ky;
    logic [15:0] stride_ic;
    logic [7:0] n_kx;
    logic [7:0] n_ky;
    logic [15:0] n_ic;
    logic [15:0] stride_x;
    logic [15:0] stride_y;
    logic [15:0] nx;
    logic [15:0] ny;
    logic raw;
    logic [1:0] raw_byte;
    logic [12:0] prm;
    logic [15:0] out;
    logic [15:0] acc;
    logic [15:0] inp;
    logic [15:0] wgt;
    logic [4:0] reserved_11;
    logic flush;
    logic init;
    logic [1:0] mode;
    logic push_next;
    logic push_previous;
    logic pop_next;
    logic pop_previous;
    logic [2:0] opcode;
  } exec_t;
  typedef struct packed {
    logic [63:0] reserved_192;
    logic [31:0] stride_z;
    logic [31:0] stride_y;
    logic [15:0] reserved_112;
    logic [15:0] nz;
    logic [15:0] ny;
    logic [15:0] nx;
    logic [31:0] dram;
    logic [15:0] sram;
    logic [8:0] reserved_7;
    logic push_next;
    logic push_previous;
    logic pop_next;
    logic pop_previous;
    logic [2:0] opcode;
  } store_t;
  typedef struct packed {
    logic [248:0] reserved_7;
    logic push_next;
    logic push_previous;
    logic pop_next;
    logic pop_previous;
    logic [2:0] opcode;
  } finish_t;

  // The weight of SCALE and MAX is {wgt, reserved_11}.
  localparam int IMMEDIATE_BITS = 21;

  // What one channel's requantisation takes.
  typedef struct packed {
    logic spare;
    logic [5:0] shift;
    logic signed [24:0] multiplier;
    logic signed [31:0] bias;
  } parameter_t;
endpackage
