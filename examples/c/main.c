/* Read a digit with a compiled network, from plain C: no allocation, no runtime library.
 *
 *     ./digit             the digits in digits.h
 *     ./digit FILE        28 x 28 bytes, row by row, 0 is black
 */
#include <stdio.h>
#include <time.h>

#include "digits.h"
#include "lenet5.h"

enum { PIXELS = 28 * 28, CLASSES = 10, REPEATS = 1000 };

/* Everything that changes while the network runs lies here; the size is known when compiling. */
static _Alignas(64) unsigned char workspace[LENET5_WORKSPACE_BYTES(1)];

static int classify(const unsigned char pixels[PIXELS], float logits[CLASSES])
{
    float image[PIXELS];
    for (int i = 0; i < PIXELS; i++) {
        image[i] = pixels[i];
    }
    const void *inputs[LENET5_INPUTS] = {[LENET5_INPUT_IMAGE] = image};
    void *outputs[LENET5_OUTPUTS] = {[LENET5_OUTPUT_LOGITS] = logits};
    return lenet5_run(workspace, inputs, outputs);
}

static int largest(const float logits[CLASSES])
{
    int best = 0;
    for (int i = 1; i < CLASSES; i++) {
        if (logits[i] > logits[best]) {
            best = i;
        }
    }
    return best;
}

static double microseconds(void)
{
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return 1e6 * (double)now.tv_sec + 1e-3 * (double)now.tv_nsec;
}

static int report(int code)
{
    fprintf(stderr, "lenet5: %s\n", lenet5_error(code));
    return 1;
}

static int read_pixels(const char *path, unsigned char pixels[PIXELS])
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        return 1;
    }
    size_t count = fread(pixels, 1, PIXELS, file);
    fclose(file);
    if (count != PIXELS) {
        fprintf(stderr, "%s: expected %d bytes, found %zu\n", path, PIXELS, count);
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    float logits[CLASSES];
    int code = lenet5_init(workspace, sizeof workspace, 1);
    if (code != 0) {
        return report(code);
    }

    if (argc > 1) {
        unsigned char pixels[PIXELS];
        if (read_pixels(argv[1], pixels) != 0) {
            return 1;
        }
        code = classify(pixels, logits);
        if (code != 0) {
            return report(code);
        }
        printf("%d\n", largest(logits));
        lenet5_finish(workspace, 0);
        return 0;
    }

    int right = 0;
    for (int i = 0; i < DIGITS; i++) {
        code = classify(digits[i], logits);
        if (code != 0) {
            return report(code);
        }
        printf("digit %d: %d (labelled %d)\n", i, largest(logits), digit_labels[i]);
        right += largest(logits) == digit_labels[i];
    }
    double fastest = 1e9;
    for (int i = 0; i < REPEATS; i++) {
        double start = microseconds();
        classify(digits[0], logits);
        double taken = microseconds() - start;
        fastest = taken < fastest ? taken : fastest;
    }
    printf("%d of %d right, fastest run %.1f us, workspace %zu bytes\n", right, DIGITS, fastest,
           sizeof workspace);
    lenet5_finish(workspace, 0);
    return 0;
}
