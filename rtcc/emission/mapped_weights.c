/* External weights: a file beside the artefact, mapped read-only. Linux. */
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Fletcher's checksum over 64-bit little-endian words, modulo 2^64: finds damage and mistaken files, not forgery. */
static int rtcc_is_expected(const char *bytes, size_t count)
{
    uint64_t sum = 0, sum_of_sums = 0;
    for (size_t i = 0; i < count; i += 8) {
        uint64_t word;
        memcpy(&word, bytes + i, 8);
        sum += word;
        sum_of_sums += sum;
    }
    return sum == RTCC_EXTERNAL_SUM && sum_of_sums == RTCC_EXTERNAL_SUM_OF_SUMS;
}

/* The path of the weights file: the folder of the object that holds this code, and the file's name. */
static int rtcc_weights_path(char *path, size_t capacity)
{
    static const char name[] = RTCC_EXTERNAL_NAME;
    Dl_info info;
    if (!dladdr((const void *)rtcc_info_text, &info) || info.dli_fname == NULL)
        return -1;
    const char *slash = strrchr(info.dli_fname, '/');
    const size_t folder = slash == NULL ? 0 : (size_t)(slash - info.dli_fname) + 1;
    if (folder + sizeof(name) > capacity)
        return -1;
    memcpy(path, info.dli_fname, folder);
    memcpy(path + folder, name, sizeof(name));
    return 0;
}

static int32_t rtcc_map_weights(struct rtcc_workspace *w)
{
    char path[PATH_MAX];
    struct stat status;
    const int file = rtcc_weights_path(path, sizeof(path)) == 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return RTCC_WEIGHTS_MISSING;
    if (fstat(file, &status) != 0 || (uint64_t)status.st_size != RTCC_EXTERNAL_BYTES) {
        close(file);
        return RTCC_WEIGHTS_WRONG_SIZE;
    }
    void *bytes = mmap(NULL, RTCC_EXTERNAL_BYTES, PROT_READ, MAP_SHARED | MAP_POPULATE, file, 0);
    close(file);
    if (bytes == MAP_FAILED)
        return RTCC_WEIGHTS_NOT_MAPPED;
    if (!rtcc_is_expected(bytes, RTCC_EXTERNAL_BYTES)) {
        munmap(bytes, RTCC_EXTERNAL_BYTES);
        return RTCC_WEIGHTS_WRONG_CONTENT;
    }
    w->weights = bytes;
    return RTCC_OK;
}

static void rtcc_unmap_weights(struct rtcc_workspace *w) { munmap((void *)(uintptr_t)w->weights, RTCC_EXTERNAL_BYTES); }
