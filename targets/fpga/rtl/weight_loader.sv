// Takes EXEC instructions from the queue, and loads the weights of their taps into the array's shadow registers.
//
// It works one tile of weights ahead of `sweep`, across the boundary of instructions: while the last tap of one
// streams, the first tile of the next one is loaded, if its tokens are there.
//
// A tile enters row by row, row k one cycle after row k - 1, as pixels do. So a tile can be used from the cycle
// after its row 0 was read (`tile_ready`), and the next one can follow as soon as row 0 was swapped in.
module weight_loader #(
    parameter int N = 16,
    parameter int WGT_ROWS = 8192,
    localparam int ROW_BITS = 8 * N,
    localparam int LANE = $clog2(N),
    localparam int WGT_ADDRESS = $clog2(WGT_ROWS)
) (
    input  logic                   clk,
    input  logic                   reset,
    output logic                   busy,
    output logic                   failed,        // weights beyond the buffer; stays until reset
    input  logic                   frozen,        // the sweep has failed or is to halt: start nothing

    input  logic                   head_valid,
    input  isa_pkg::exec_t         head,
    input  logic                   grant,
    output logic                   start,
    input  logic                   sweep_ready,   // the sweep can take the instruction that starts

    output logic                   read_enable,
    output logic [WGT_ADDRESS-1:0] read_row,
    input  logic [ROW_BITS-1:0]    read_data,

    output logic                   tile_ready,    // the next tile's row 0 is, or is just being, loaded
    input  logic                   tile_taken,

    // To the shadow registers: row `shadow_row` takes these weights, on the diagonal alone where told.
    output logic                   shadow_write,
    output logic [LANE-1:0]        shadow_row,
    output logic                   shadow_diagonal,
    output logic                   shadow_immediate,
    output logic signed [isa_pkg::IMMEDIATE_BITS-1:0] immediate,
    output logic [ROW_BITS-1:0]    weights
);
  logic            active;
  isa_pkg::exec_t  exec;
  logic            is_matrix, is_channel, has_weights;
  logic [31:0]     tiles_left;
  logic [17:0]     row;               // weight row of the tile
  logic [LANE-1:0] lane;              // row of the array being loaded
  logic            loading;           // lanes 1 to N - 1 of a tile
  logic            begins, ends;

  assign is_matrix = exec.mode == isa_pkg::MODE_MATRIX;
  assign is_channel = exec.mode == isa_pkg::MODE_CHANNEL;
  assign has_weights = is_matrix || is_channel;
  assign start = head_valid && grant && sweep_ready && !active && !failed && !frozen;

  // A tile begins when the one before it was taken, be it in this very cycle.
  logic in_range;
  assign in_range = !has_weights || row + (is_matrix ? 18'(N) : 18'd1) <= 18'(WGT_ROWS);
  assign begins = active && !loading && !failed && in_range && (!tile_ready || tile_taken);
  assign ends = loading && lane == LANE'(N - 1);
  assign read_enable = (begins && has_weights) || (loading && is_matrix);
  assign read_row = row[WGT_ADDRESS-1:0] + (loading ? WGT_ADDRESS'(lane) : '0);

  // SCALE and MAX use one tile for all of their taps.
  logic [31:0] tiles;
  logic        head_has_weights;
  assign head_has_weights = head.mode == isa_pkg::MODE_MATRIX || head.mode == isa_pkg::MODE_CHANNEL;
  assign tiles = head_has_weights ? 32'(head.n_ic) * 32'(head.n_ky) * 32'(head.n_kx) : 32'd1;

  always_ff @(posedge clk) begin
    if (reset) begin
      active <= 1'b0;
      failed <= 1'b0;
      loading <= 1'b0;
      tile_ready <= 1'b0;
    end else begin
      if (start) begin
        active <= 1'b1;
        exec <= head;
        tiles_left <= tiles;
        row <= 18'(head.wgt);
      end
      if (active && !loading && !in_range) failed <= 1'b1;
      if (begins) begin
        loading <= 1'b1;
        lane <= LANE'(1);
        tiles_left <= tiles_left - 1'b1;
      end else if (loading) begin
        lane <= lane + 1'b1;
        if (ends) begin
          loading <= 1'b0;
          row <= row + (is_matrix ? 18'(N) : 18'd1);
          if (tiles_left == '0) active <= 1'b0;
        end
      end
      tile_ready <= begins || (tile_ready && !tile_taken);
    end
  end

  // The row arrives from the buffer one cycle after it is read.
  always_ff @(posedge clk) begin
    shadow_write <= !reset && (begins || loading);
    shadow_row <= begins ? '0 : lane;
    shadow_diagonal <= !is_matrix;
    shadow_immediate <= !has_weights;
    immediate <= {exec.wgt, exec.reserved_11};
  end
  assign weights = read_data;
  assign busy = start || begins || loading || (active && !loading && !failed && !in_range);

  logic unused;
  assign unused = &{1'b0, exec, head};
endmodule
