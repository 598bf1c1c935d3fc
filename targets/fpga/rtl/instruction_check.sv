// Whether 256 bits are an instruction: a known opcode, no reserved bit set, no count of 0, low not above high.
module instruction_check (
    input  logic [255:0] word,
    output logic         legal
);
  isa_pkg::load_t  load;
  isa_pkg::exec_t  exec;
  isa_pkg::store_t store;

  assign load = word;
  assign exec = word;
  assign store = word;

  logic has_weights;
  logic load_legal, exec_legal, store_legal, finish_legal;

  assign has_weights = exec.mode == isa_pkg::MODE_MATRIX || exec.mode == isa_pkg::MODE_CHANNEL;
  assign load_legal = (word & isa_pkg::LOAD_RESERVED) == '0
      && (load.buffer == isa_pkg::BUFFER_INP || load.buffer == isa_pkg::BUFFER_WGT
          || load.buffer == isa_pkg::BUFFER_PRM)
      && load.nx != '0 && load.ny != '0 && load.nz != '0;
  assign exec_legal = (word & (has_weights ? isa_pkg::EXEC_RESERVED_WITH_WEIGHTS
                                           : isa_pkg::EXEC_RESERVED_WITH_IMMEDIATE)) == '0
      && exec.nx != '0 && exec.ny != '0 && exec.n_ic != '0 && exec.n_ky != '0 && exec.n_kx != '0
      && $signed(exec.low) <= $signed(exec.high);
  assign store_legal = (word & isa_pkg::STORE_RESERVED) == '0
      && store.nx != '0 && store.ny != '0 && store.nz != '0;
  assign finish_legal = (word & isa_pkg::FINISH_RESERVED) == '0;

  always_comb begin
    case (word[2:0])
      isa_pkg::OP_LOAD:   legal = load_legal;
      isa_pkg::OP_EXEC:   legal = exec_legal;
      isa_pkg::OP_STORE:  legal = store_legal;
      isa_pkg::OP_FINISH: legal = finish_legal;
      default:            legal = 1'b0;
    endcase
  end

  logic unused;
  assign unused = &{1'b0, load, exec, store};
endmodule
