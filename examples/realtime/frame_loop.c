/* Find text in the frames of a camera, each before the next one comes: PP-OCRv4's detector.
 *
 *     ./frame_loop [FRAMES [FPS [BUDGET_MS]]]       90 frames, 30 per second, the time between them
 *
 * The camera is made up: it shows the number of the frame, which wanders over a light ground. */
#define _POSIX_C_SOURCE 200809L
#include "deadlines.h"
#include "ppocr_det.h"

enum { SIZE = 320, SCALE = 8, DIGITS = 4 };

static const float MEAN[3] = {0.485f, 0.456f, 0.406f}, DEVIATION[3] = {0.229f, 0.224f, 0.225f};
static const float LIGHT = 0.9f, DARK = 0.1f;

/* Pixels with at least this probability are text. */
static const float CERTAIN = 0.3f;

/* Digits of 3 x 5 pixels, row by row from the highest of 15 bits. */
static const int FONT[10] = {0x7B6F, 0x2C97, 0x73E7, 0x73CF, 0x5BC9, 0x79CF, 0x79EF, 0x7252, 0x7BEF, 0x7BCF};

static _Alignas(64) unsigned char workspace[PPOCR_DET_WORKSPACE_BYTES(1)];
static float frame[3][SIZE][SIZE], probability[SIZE][SIZE];
static struct deadlines deadlines;

static void fill(int row, int column, int size, float light)
{
    for (int channel = 0; channel < 3; channel++) {
        for (int r = row; r < row + size; r++) {
            for (int c = column; c < column + size; c++) {
                frame[channel][r][c] = (light - MEAN[channel]) / DEVIATION[channel];
            }
        }
    }
}

/* The picture of a frame, normalised as the model wants it. */
static void draw(int number)
{
    int row = 40 + 2 * number % 200, column = 30 + 3 * number % 150;
    fill(0, 0, SIZE, LIGHT);
    for (int place = DIGITS - 1, rest = number; place >= 0; place--, rest /= 10) {
        for (int bit = 0; bit < 15; bit++) {
            if (FONT[rest % 10] >> (14 - bit) & 1) {
                fill(row + SCALE * (bit / 3), column + SCALE * (4 * place + bit % 3), SCALE, DARK);
            }
        }
    }
}

/* Print the smallest box around everything that is text. */
static void tell(int number)
{
    int top = SIZE, bottom = -1, left = SIZE, right = -1;
    for (int r = 0; r < SIZE; r++) {
        for (int c = 0; c < SIZE; c++) {
            if (probability[r][c] >= CERTAIN) {
                top = r < top ? r : top;
                bottom = r;
                left = c < left ? c : left;
                right = c > right ? c : right;
            }
        }
    }
    if (bottom < 0) {
        printf("frame %4d: no text\n", number);
    } else {
        printf("frame %4d: text in rows %d to %d, columns %d to %d\n", number, top, bottom, left, right);
    }
}

static int loop(int frames, int fps)
{
    const void *const inputs[PPOCR_DET_INPUTS] = {frame};
    void *const outputs[PPOCR_DET_OUTPUTS] = {probability};
    int code = ppocr_det_init(workspace, sizeof workspace, 1);
    if (code == RTCC_OK) { /* once before the loop, so that caches and branch predictors have seen the model */
        code = ppocr_det_run(workspace, inputs, outputs);
    }
    for (int number = 0; code == RTCC_OK && number < frames; number++) {
        draw(number);
        deadlines_wait(&deadlines);
        deadlines_begin(&deadlines);
        code = ppocr_det_run(workspace, inputs, outputs);
        deadlines_done(&deadlines);
        if (number % fps == 0) {
            tell(number);
        }
    }
    ppocr_det_finish(workspace, 0);
    return code;
}

int main(int argc, char **argv)
{
    int frames = argc > 1 ? atoi(argv[1]) : 90, fps = argc > 2 ? atoi(argv[2]) : 30;
    if (frames < 1 || frames > 9999 || fps < 1) {
        fprintf(stderr, "usage: %s [FRAMES [FPS [BUDGET_MS]]]\n", argv[0]);
        return 2;
    }
    deadlines.period = 1.0 / fps;
    deadlines.budget = argc > 3 ? atof(argv[3]) / 1e3 : deadlines.period;
    int code = loop(frames, fps);
    if (code != RTCC_OK) {
        fprintf(stderr, "ppocr_det: %s\n", ppocr_det_error(code));
        return 1;
    }
    deadlines_report(&deadlines);
    return 0;
}
