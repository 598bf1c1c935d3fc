#ifndef RTCC_FPGA_PORT
#define RTCC_FPGA_PORT 1
#include <stdint.h>
/* How the host reaches the accelerator: its control registers, and memory that both see.
   read, write: one register of 32 bits, by its byte offset (docs/fpga-isa.md). memory: where the host sees the
   shared memory, address: where the accelerator does, a multiple of 4096; bytes: how much of it there is. What
   the host has written must be seen by the accelerator after a write to a register, and the other way round. */
struct rtcc_fpga_port {
    void *context;
    uint32_t (*read)(void *context, uint32_t offset);
    void (*write)(void *context, uint32_t offset, uint32_t value);
    unsigned char *memory;
    uint64_t address;
    uint64_t bytes;
};
#endif
