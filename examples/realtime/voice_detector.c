/* Find speech in a stream of sound, 32 ms at a time: silero-vad, its state updated in place.
 *
 *     ./voice_detector sound.raw                                          at a microphone's pace
 *     arecord -q -t raw -f S16_LE -c 1 -r 16000 | ./voice_detector        live
 *
 * Sound is raw: one channel of 16-bit samples at 16 kHz. */
#define _POSIX_C_SOURCE 200809L
#include "deadlines.h"
#include "silero_vad.h"

#include <stdint.h>

enum { RATE = 16000, WINDOW = 512, CONTEXT = 64, STATE = 2 * 128, PATIENCE = 4 };

/* Speech begins at a probability of 0.5, and ends after PATIENCE windows below 0.35. */
static const float BEGINS = 0.5f, ENDS = 0.35f;

static _Alignas(64) unsigned char workspace[SILERO_VAD_WORKSPACE_BYTES(1)];
static float heard[CONTEXT + WINDOW], state[STATE], probability;
static struct deadlines deadlines = {.period = (double)WINDOW / RATE, .budget = (double)WINDOW / RATE};

/* The next window behind the end of the last one; 0 where the sound is over. */
static int hear(FILE *sound, int16_t samples[WINDOW])
{
    if (fread(samples, sizeof *samples, WINDOW, sound) != WINDOW) {
        return 0;
    }
    memmove(heard, heard + WINDOW, CONTEXT * sizeof *heard);
    for (int i = 0; i < WINDOW; i++) {
        heard[CONTEXT + i] = (float)samples[i] / 32768.0f;
    }
    return 1;
}

/* Print what changes. */
static void tell(double second)
{
    static int speaks, quiet;
    quiet = probability < ENDS ? quiet + 1 : 0;
    if (!speaks && probability >= BEGINS) {
        speaks = 1;
        printf("%6.2f s  speech\n", second);
    } else if (speaks && quiet >= PATIENCE) {
        speaks = 0;
        printf("%6.2f s  silence\n", second);
    }
}

static int detect(FILE *sound, int is_live)
{
    /* One buffer for the state and its next value, as `--state state=stateN` allows. */
    const void *const inputs[SILERO_VAD_INPUTS] = {
        [SILERO_VAD_INPUT_INPUT] = heard, [SILERO_VAD_INPUT_STATE] = state};
    void *const outputs[SILERO_VAD_OUTPUTS] = {
        [SILERO_VAD_OUTPUT_OUTPUT] = &probability, [SILERO_VAD_OUTPUT_STATEN] = state};
    int16_t samples[WINDOW];
    int code = silero_vad_init(workspace, sizeof workspace, 1);
    while (code == RTCC_OK && hear(sound, samples)) {
        if (is_live) {
            deadlines_release(&deadlines);
        } else {
            deadlines_wait(&deadlines);
        }
        deadlines_begin(&deadlines);
        code = silero_vad_run(workspace, inputs, outputs);
        deadlines_done(&deadlines);
        tell((double)(deadlines.answers - 1) * WINDOW / RATE);
    }
    silero_vad_finish(workspace, 0);
    return code;
}

int main(int argc, char **argv)
{
    FILE *sound = argc > 1 ? fopen(argv[1], "rb") : stdin;
    if (sound == NULL) {
        perror(argv[1]);
        return 1;
    }
    int code = detect(sound, argc < 2);
    if (code != RTCC_OK) {
        fprintf(stderr, "silero_vad: %s\n", silero_vad_error(code));
        return 1;
    }
    if (deadlines.answers == 0) {
        fprintf(stderr, "the sound has no %d samples, which one window is\n", WINDOW);
        return 1;
    }
    deadlines_report(&deadlines);
    return 0;
}
