"""Sums of bytes: u8 data times s8 weights in i32."""
