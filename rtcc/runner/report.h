/* What the runners of artefacts, runner.c and bare_runner.c, tell of a run: a line of JSON, as rtcc.runner.foreign
 * reads it. It asks nothing of a library. Who includes it defines `put`, which prints a text, and `fail`, which ends
 * the program with words on what is wrong.
 */
#include <stddef.h>
#include <stdint.h>

enum { ALIGNMENT = 64, RANKS = 64, DIGITS = 21 };

struct tensor {
    char side; /* 'i' for an input, 'o' for an output */
    size_t bytes;
    int rank; /* above 0: of an output whose shape the data decide */
};

static void put(const char *text);
static void fail(const char *what, const char *which);

/* A number in decimal digits at the end of some room; of as many bits as an address, which bare machines divide. */
static char *decimal(intptr_t value, char room[DIGITS + 1])
{
    uintptr_t rest = value < 0 ? -(uintptr_t)value : (uintptr_t)value;
    char *place = room + DIGITS;
    *place = 0;
    do {
        *--place = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest != 0);
    if (value < 0)
        *--place = '-';
    return place;
}

static void put_number(intptr_t value)
{
    char room[DIGITS + 1];
    put(decimal(value, room));
}

static void put_member(const char *name, intptr_t value)
{
    put("\"");
    put(name);
    put("\":");
    put_number(value);
    put(",");
}

static void put_shape(const struct rtcc_artifact *model, const void *workspace, int output, int rank)
{
    int64_t shape[RANKS];
    if (model->output_shape(workspace, output, shape) != 0)
        fail("no shape of", "an output");
    put("\"");
    put_number(output);
    put("\":[");
    for (int axis = 0; axis < rank; axis++) {
        put(axis > 0 ? "," : "");
        put_number((intptr_t)shape[axis]);
    }
    put("]");
}

static void put_shapes(const struct rtcc_artifact *model, const void *workspace, const struct tensor *outputs,
                       int count)
{
    const char *separator = "";
    put("\"shapes\":{");
    for (int i = 0; i < count; i++) {
        if (outputs[i].rank == 0)
            continue;
        put(separator);
        put_shape(model, workspace, i, outputs[i].rank);
        separator = ",";
    }
    put("},");
}

static void put_begin(const struct rtcc_artifact *model, int64_t init_ns)
{
    put("{");
    put_member("init_ns", (intptr_t)init_ns);
    put_member("table", (intptr_t)model);
}

static void put_end(const struct rtcc_artifact *model, int code)
{
    put_member("code", code);
    put("\"text\":\"");
    put(model->error(code));
    put("\"}\n");
}
