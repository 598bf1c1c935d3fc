/* A host's program around a compiled model, with a board that is made up: what the functions return in each case,
   a line for each. Arguments: the model's image, and one of another compilation. Offsets of registers are given by -D. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 4096, START = 1, STOP = 2, IDLE = 0, BUSY = 1, DONE = 2, FAULT = 6, SLOW = 1000, SPACE = 1 << 20 };
#define GONE UINT32_MAX

/* after: what STATUS reads when a program was started; polls: how often it reads busy before. obeys: it can be
   stopped. */
static struct {
    uint32_t registers[64];
    uint32_t after;
    uint64_t polls, left;
    unsigned starts;
    int obeys;
    void (*meanwhile)(void);
} board;

static struct rtcc_fpga_port port;
static unsigned char *image, *other;
static long image_bytes, other_bytes;
static void *inputs[4], *outputs[4];
static _Alignas(64) unsigned char first[MODEL_WORKSPACE_BYTES(1)], second[MODEL_WORKSPACE_BYTES(1)];

static uint32_t read_register(void *context, uint32_t offset)
{
    if (context != &board)
        abort();
    if (offset == AT_STATUS && board.left > 0) {
        board.left--;
        return BUSY;
    }
    return board.registers[offset / 4];
}

static void write_register(void *context, uint32_t offset, uint32_t value)
{
    if (context != &board)
        abort();
    board.registers[offset / 4] = value;
    if (offset == AT_CONTROL && value == STOP && board.obeys)
        board.registers[AT_STATUS / 4] = FAULT;
    if (offset != AT_CONTROL || value != START)
        return;
    board.starts++;
    board.left = board.polls;
    board.registers[AT_STATUS / 4] = board.after;
    if (board.meanwhile != NULL)
        board.meanwhile();
}

static void say(const char *what, int code)
{
    printf("%s: %d\n", what, code);
}

static int run(void *workspace)
{
    return model_run(workspace, (const void *const *)inputs, outputs);
}

static unsigned char *contents(const char *path, long *bytes)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (*bytes = ftell(file)) < 0)
        abort();
    rewind(file);
    unsigned char *data = malloc((size_t)*bytes);
    if (data == NULL || fread(data, 1, (size_t)*bytes, file) != (size_t)*bytes)
        abort();
    fclose(file);
    return data;
}

static void refused_images(void)
{
    say("no port", model_attach(NULL, image, (uint64_t)image_bytes));
    say("no image", model_attach(&port, NULL, 0));
    struct rtcc_fpga_port without = port;
    without.read = NULL;
    say("no read", model_attach(&without, image, (uint64_t)image_bytes));
    without = port;
    without.write = NULL;
    say("no write", model_attach(&without, image, (uint64_t)image_bytes));
    without = port;
    without.memory = NULL;
    say("no memory", model_attach(&without, image, (uint64_t)image_bytes));
    say("a piece of the header", model_attach(&port, image, 40));
    say("cut short", model_attach(&port, image, (uint64_t)image_bytes - 1));
    image[image_bytes / 2] ^= 4;
    say("changed", model_attach(&port, image, (uint64_t)image_bytes));
    image[image_bytes / 2] ^= 4;
    say("other", model_attach(&port, other, (uint64_t)other_bytes));
}

static void refused_boards(void)
{
    uint32_t *identity = &board.registers[AT_IDENTITY / 4];
    uint32_t *configuration = &board.registers[AT_CONFIGURATION / 4];
    *identity ^= 1;
    say("another identity", model_attach(&port, image, (uint64_t)image_bytes));
    *identity ^= 1;
    *configuration ^= 8;
    say("another core", model_attach(&port, image, (uint64_t)image_bytes));
    *configuration ^= 8;
    struct rtcc_fpga_port small = port;
    small.bytes = MEMORY - 1;
    say("too little memory", model_attach(&small, image, (uint64_t)image_bytes));
    small = port;
    small.address += 64;
    say("memory between pages", model_attach(&small, image, (uint64_t)image_bytes));
}

static void try_meanwhile(void)
{
    board.meanwhile = NULL;
    say("attach meanwhile", model_attach(&port, image, (uint64_t)image_bytes));
    say("detach meanwhile", model_detach());
    say("run meanwhile", run(second));
}

static void runs(void)
{
    unsigned char *before = malloc(port.bytes);
    if (before == NULL)
        abort();
    memcpy(before, port.memory, port.bytes);
    board.after = DONE;
    board.polls = SLOW;
    say("run", run(first));
    printf("started %u, memory %s, base %#x, program %u\n", board.starts,
           memcmp(before, port.memory, port.bytes) == 0 ? "as before" : "written",
           board.registers[AT_BASE_LOW / 4], board.registers[AT_PROGRAM / 4]);
    free(before);
    board.polls = 0;
    board.meanwhile = try_meanwhile;
    say("run again", run(first));
    board.after = FAULT;
    say("fault", run(first));
    board.after = IDLE;
    say("idle, not done", run(first));
    board.after = GONE;
    say("gone", run(first));
    say("still gone", run(first));
    board.registers[AT_STATUS / 4] = IDLE;
    board.after = BUSY;
    say("busy for ever", run(first));
    const unsigned starts = board.starts;
    say("still busy", run(first));
    say("detach while it is busy", model_detach());
    say("attach while it is busy", model_attach(&port, image, (uint64_t)image_bytes));
    printf("started %u more\n", board.starts - starts);
    board.registers[AT_STATUS / 4] = board.after = DONE;
    say("idle again", run(first));
    board.after = BUSY;
    board.obeys = 1;
    say("busy, then stopped", run(first));
    board.after = DONE;
    say("after it was stopped", run(first));
}

int main(int count, char **words)
{
    if (count != 3)
        return 2;
    image = contents(words[1], &image_bytes);
    other = contents(words[2], &other_bytes);
    for (int i = 0; i < 4; i++) {
        inputs[i] = calloc(SPACE, 1);
        outputs[i] = calloc(SPACE, 1);
    }
    memset(inputs[0], 0x3c, SPACE); /* some positive float */
    board.registers[AT_IDENTITY / 4] = IDENTITY;
    board.registers[AT_CONFIGURATION / 4] = CONFIGURATION;
    port = (struct rtcc_fpga_port){&board, read_register, write_register, NULL, 0x7fff0000u + PAGE, MEMORY};
    port.memory = aligned_alloc(PAGE, MEMORY);
    if (port.memory == NULL)
        abort();
    memset(port.memory, 0, MEMORY);
    say("init", model_init(first, sizeof first, 1));
    say("init", model_init(second, sizeof second, 1));
    say("run without a board", run(first));
    refused_images();
    refused_boards();
    say("run after refusals", run(first));
    say("attach", model_attach(&port, image, (uint64_t)image_bytes));
    runs();
    say("detach", model_detach());
    say("run without a board again", run(first));
    puts(model_error(RTCC_DEVICE_TIMEOUT));
    model_finish(first, 0);
    model_finish(second, 0);
    for (int i = 0; i < 4; i++) {
        free(inputs[i]);
        free(outputs[i]);
    }
    free(port.memory);
    free(image);
    free(other);
    return 0;
}
