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
enum rtcc_fpga_error {
    RTCC_FPGA_IMAGE_DAMAGED = -64, /* the image is no image, is cut short, or its checksum is wrong */
    RTCC_FPGA_IMAGE_OTHER = -65,   /* the image is of another model or another compilation of it */
    RTCC_FPGA_NO_CORE = -66,       /* no core of this interface answers at the registers */
    RTCC_FPGA_MEMORY = -67         /* the shared memory is too small, or not aligned to 4096 bytes */
};
#endif
