// The six token channels of the ring LOAD -> EXEC -> STORE -> LOAD, both ways between neighbours.
//
// Each unit shows the token bits of its next instruction in `wants`; `grant` says that its tokens are there and
// that there is room for those it pushes. `start` takes and reserves them, `give` makes its pushes visible.
// Bits of `wants` and of `gives`: see the fields of an instruction, h0[6:3] and h0[6:5].
module tokens (
    input  logic       clk,
    input  logic       reset,
    input  logic [11:0] wants,  // {push_next, push_previous, pop_next, pop_previous} of each unit, LOAD lowest
    input  logic [2:0] start,
    input  logic [5:0]  gives,  // {push_next, push_previous} of each unit
    input  logic [2:0] give,
    output logic [2:0] grant,
    output logic [2:0] lacks_previous,  // a token from the previous unit is wanted and not there
    output logic [2:0] lacks_next
);
  // forward[u]: from unit u to the next one; backward[u]: from unit u to the previous one.
  logic [2:0] forward_room, forward_token, backward_room, backward_token;

  for (genvar u = 0; u < 3; u++) begin : units
    localparam int NEXT = (u + 1) % 3;
    localparam int PREVIOUS = (u + 2) % 3;

    channel forward (
        .clk, .reset,
        .reserve(start[u] && wants[4*u+3]),
        .push(give[u] && gives[2*u+1]),
        .pop(start[NEXT] && wants[4*NEXT+0]),
        .has_room(forward_room[u]),
        .has_token(forward_token[u])
    );
    channel backward (
        .clk, .reset,
        .reserve(start[u] && wants[4*u+2]),
        .push(give[u] && gives[2*u+0]),
        .pop(start[PREVIOUS] && wants[4*PREVIOUS+1]),
        .has_room(backward_room[u]),
        .has_token(backward_token[u])
    );

    assign lacks_previous[u] = wants[4*u+0] && !forward_token[PREVIOUS];
    assign lacks_next[u] = wants[4*u+1] && !backward_token[NEXT];
    assign grant[u] = !lacks_previous[u] && !lacks_next[u]
        && !(wants[4*u+2] && !backward_room[u]) && !(wants[4*u+3] && !forward_room[u]);
  end
endmodule
