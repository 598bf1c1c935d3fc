/* Runs an artefact once on a microcontroller without an operating system: a vector table, what runs at reset, and
 * files of the machine that emulates it, by semihosting (Arm, Semihosting for AArch32 and AArch64, 2.0).
 *
 * tensors.h, written with it, has the sizes: WORKSPACE_BYTES, TENSOR_BYTES of all inputs and outputs together, and
 * TENSORS, rows of struct tensor. Inputs are read from 0.in, 1.in…, outputs written to 0.out, 1.out…, and "report"
 * gets what report.h says, without times, and with the bytes of the stack and the ticks of the clock that the run took
 * (0: more than it counts). It calls no library: what is linked of one is the model's.
 */
#include <stdint.h>
#include <stddef.h>

#include "artifact_table.h" /* from rtcc.emission.header: what the headers of artefacts say */
#include "report.h"         /* from rtcc.runner */
#include "tensors.h"

enum { OPEN = 1, CLOSE = 2, SAY = 4, WRITE = 5, READ = 6, EXIT = 0x18 };
enum { MODE_READ = 1 /* rb */, MODE_WRITE = 5 /* wb */ };
enum { STOPPED = 0x20026, FAILED = 0x20023, PAINT = 0x5a5a5a5a };

extern const struct rtcc_artifact rtcc_artifact_v1;
extern uint32_t stack_bottom[], stack_top[], data_begin[], data_end[], data_source[], bss_begin[], bss_end[];

static const struct tensor tensors[] = {TENSORS};
static _Alignas(64) unsigned char workspace[WORKSPACE_BYTES] __attribute__((section(".workspace")));
static _Alignas(64) unsigned char memory[TENSOR_BYTES] __attribute__((section(".tensors")));

void reset(void);
void fault(void);

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
};

static int host(int operation, const void *arguments)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void leave(uintptr_t reason)
{
    host(EXIT, (const void *)reason);
    for (;;) {
    }
}

void fault(void) { leave(FAILED); }

static void fail(const char *what, const char *which)
{
    host(SAY, what);
    host(SAY, " ");
    host(SAY, which);
    leave(FAILED);
}

static size_t length(const char *text)
{
    size_t count = 0;
    while (text[count] != 0)
        count++;
    return count;
}

static int open_file(const char *name, int mode)
{
    const uintptr_t arguments[] = {(uintptr_t)name, (uintptr_t)mode, length(name)};
    const int file = host(OPEN, arguments);
    if (file < 0)
        fail("cannot open", name);
    return file;
}

/* READ and WRITE return the bytes that were not transferred. */
static void transfer(int operation, int file, const void *data, size_t bytes)
{
    const uintptr_t arguments[] = {(uintptr_t)file, (uintptr_t)data, bytes};
    if (host(operation, arguments) != 0)
        fail("cannot transfer", "a file of the host");
}

static void close_file(int file)
{
    const uintptr_t arguments[] = {(uintptr_t)file};
    host(CLOSE, arguments);
}

static int report;

static void put(const char *text) { transfer(WRITE, report, text, length(text)); }

static void transfer_tensor(const struct tensor *t, int index, void *data)
{
    const int reads = t->side == 'i';
    char text[DIGITS + 8];
    char *name = decimal(index, text);
    const char *suffix = reads ? ".in" : ".out";
    for (int i = 0; i < 5; i++)
        text[DIGITS + i] = i < 3 || !reads ? suffix[i] : 0;
    const int file = open_file(name, reads ? MODE_READ : MODE_WRITE);
    if (t->bytes > 0)
        transfer(reads ? READ : WRITE, file, data, t->bytes);
    close_file(file);
}

/* Overwrites what is free of the stack, so that what a run takes of it can be seen. */
__attribute__((noinline)) static void paint(void)
{
    const uint32_t *top = __builtin_frame_address(0);
    for (volatile uint32_t *word = stack_bottom; word < top; word++)
        *word = PAINT;
}

static size_t taken(const uint32_t *top)
{
    const uint32_t *word = stack_bottom;
    while (word < top && *word == PAINT)
        word++;
    return (size_t)(top - word) * sizeof *word;
}

/* The board's clock, which QEMU lets go on by instructions: counts down from 2^24 - 1. */
static volatile uint32_t *const systick = (volatile uint32_t *)0xe000e010; /* control, reload, current */

static void start_clock(void)
{
    systick[1] = 0xffffff;
    systick[2] = 0;
    systick[0] = 5; /* on, from the processor's clock */
}

static void run(void)
{
    enum { COUNT = sizeof tensors / sizeof *tensors };
    const void *inputs[COUNT + 1];
    void *outputs[COUNT + 1];
    int read = 0, written = 0;
    unsigned char *free = memory;
    for (int i = 0; i < COUNT; i++) {
        if (tensors[i].side == 'i') {
            transfer_tensor(&tensors[i], read, free);
            inputs[read++] = free;
        } else
            outputs[written++] = free;
        free += (tensors[i].bytes / ALIGNMENT + 1) * ALIGNMENT;
    }
    const uint32_t *top;
    __asm__ volatile("mov %0, sp" : "=r"(top));
    paint();
    int code = rtcc_artifact_v1.init(workspace, sizeof workspace, 1);
    start_clock();
    const uint32_t started = systick[2];
    if (code == 0)
        code = rtcc_artifact_v1.run(workspace, inputs, outputs);
    const uint32_t ticks = (started - systick[2]) & 0xffffff;
    const int wrapped = (systick[0] & 1u << 16) != 0;
    const size_t stack = taken(top);
    put_begin(&rtcc_artifact_v1, 0);
    for (int i = 0; i < written && code == 0; i++)
        transfer_tensor(&tensors[read + i], i, outputs[i]);
    if (code == 0)
        put_shapes(&rtcc_artifact_v1, workspace, tensors + read, written);
    put_member("stack", (intptr_t)stack);
    put_member("ticks", wrapped ? 0 : (intptr_t)ticks);
    put_end(&rtcc_artifact_v1, code);
}

void reset(void)
{
    for (uint32_t *to = data_begin, *from = data_source; to < data_end;)
        *to++ = *from++;
    for (uint32_t *to = bss_begin; to < bss_end;)
        *to++ = 0;
#ifdef __ARM_FP
    *(volatile uint32_t *)0xe000ed88 |= 0xfu << 20; /* CPACR: the float unit is on */
    __asm__ volatile("dsb\nisb");
#endif
    report = open_file("report", MODE_WRITE);
    run();
    close_file(report);
    leave(STOPPED);
}
