"""A kernel's TIR as a C99 function: readable, exact, without vectors; what C does not have is refused."""
