// One lane's requantisation: clip(round_half_even((acc + bias) * multiplier / 2^shift) + zero, low, high).
// With `raw` a byte of the product, signed, takes the place of what is rounded.
//
// Exact but for acc + bias, which wraps in 32 bits. A result leaves 7 cycles after its accumulator came; `raw` and
// its byte are to come 2 cycles after it, the zero point 5 and the limits 6, when they are used.
// The product of 32 by 25 bits is made of two that fit a DSP slice: multiplier times the low 17 bits, and times
// the high 15. The shift is done in two steps, by bytes and by bits; what falls out is kept as one sticky bit.
module requantise (
    input  logic                clk,
    input  logic signed [31:0]  acc,
    input  isa_pkg::parameter_t parameters,  // with acc
    input  logic                raw,
    input  logic [1:0]          raw_byte,    // of the product, 0 the lowest
    input  logic signed [7:0]   zero,
    input  logic signed [7:0]   low,
    input  logic signed [7:0]   high,
    output logic signed [7:0]   result
);
  // 1: bias.
  logic signed [31:0] total;
  logic signed [24:0] multiplier;
  logic [5:0]         shift_1;
  always_ff @(posedge clk) begin
    total <= acc + $signed(parameters.bias);
    multiplier <= parameters.multiplier;
    shift_1 <= parameters.shift;
  end

  // 2: two products.
  logic signed [17:0] total_low;
  logic signed [14:0] total_high;
  logic signed [42:0] product_low;
  logic signed [39:0] product_high;
  logic [5:0]         shift_2;
  assign total_low = {1'b0, total[16:0]};
  assign total_high = total[31:17];
  always_ff @(posedge clk) begin
    product_low <= 43'(multiplier) * 43'(total_low);
    product_high <= 40'(multiplier) * 40'(total_high);
    shift_2 <= shift_1;
  end

  // 3: their sum, and below it one more bit, from which rounding sees the half.
  logic signed [56:0] product;
  logic [5:0]         shift_3;
  logic               raw_3;
  always_ff @(posedge clk) begin
    product <= 57'(product_low) + {product_high, 17'b0};
    shift_3 <= raw ? {1'b0, raw_byte, 3'b0} : shift_2;
    raw_3 <= raw;
  end

  // 4: shift right by a number of bytes. `kept` has three bytes; `over` says that more are significant.
  logic [87:0] extended;                // sign, product, half
  logic [10:0] positive, negative;      // bytes that are all zeros, all ones
  logic [7:0]  something;               // bytes with a one
  logic [23:0] kept;
  logic        over, sticky_4, minus_4, raw_4;
  logic [2:0]  shift_4;
  logic [2:0]  bytes;

  assign extended = {{30{product[56]}}, product, 1'b0};
  assign bytes = shift_3[5:3];
  for (genvar b = 0; b < 11; b++) begin : signs
    assign positive[b] = extended[8*b +: 8] == 8'h00;
    assign negative[b] = extended[8*b +: 8] == 8'hff;
  end
  assign something = ~positive[7:0];

  always_ff @(posedge clk) begin
    kept <= extended[8*bytes +: 24];
    minus_4 <= product[56];
    // Bytes above those kept must repeat the sign, as must the highest bit kept.
    over <= ((product[56] ? negative : positive) | ((11'd1 << (4'(bytes) + 4'd3)) - 11'd1)) != '1
        || extended[8*bytes + 23] != product[56];
    sticky_4 <= (something & ((8'd1 << bytes) - 8'd1)) != '0;
    shift_4 <= shift_3[2:0];
    raw_4 <= raw_3;
  end

  // 5: shift right by bits, and take the lowest byte where it is asked for; else keep the range in which results can lie: beyond 9 bits and sign it is clipped.
  logic signed [23:0] shifted;
  logic [6:0]         lost;
  logic signed [9:0]  whole;
  logic               up_5;
  assign shifted = $signed(kept) >>> shift_4;
  assign lost = kept[6:0] & ((7'd1 << shift_4) - 7'd1);
  always_ff @(posedge clk) begin
    if (raw_4) begin
      whole <= {{2{shifted[8]}}, shifted[8:1]};
      up_5 <= 1'b0;
    end else if (over || (shifted[23:10] != '0 && shifted[23:10] != '1)) begin
      whole <= minus_4 ? -10'sd512 : 10'sd511;
      up_5 <= 1'b0;
    end else begin
      whole <= shifted[10:1];
      up_5 <= shifted[0] && (sticky_4 || lost != '0 || shifted[1]);
    end
  end

  // 6: round, add the zero point. 7: clip.
  logic signed [10:0] offset;
  always_ff @(posedge clk) begin
    offset <= 11'(whole) + 11'(zero) + $signed({10'b0, up_5});
    if (offset < 11'(low)) result <= low;
    else if (offset > 11'(high)) result <= high;
    else result <= offset[7:0];
  end

  logic unused;
  assign unused = &{1'b0, parameters};
endmodule
