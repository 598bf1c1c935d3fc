/* The driver: places an image in the shared memory, and runs its regions.

   An image is a header of 64 bytes, a table of regions, a table of tensors, then the constants of each region
   at a multiple of 4096 bytes, and a map for reports. All numbers are little-endian. Addresses within a region count rows from its
   base register, so a region lies anywhere. */
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    RTCC_FPGA_PAGE = 4096,
    RTCC_FPGA_BUSY = 1,
    RTCC_FPGA_DONE = 2,
    RTCC_FPGA_FAULT = 4,
    RTCC_FPGA_START = 1,
    RTCC_FPGA_ABORT = 2,
    RTCC_FPGA_STATUS_MOST = RTCC_FPGA_BUSY | RTCC_FPGA_DONE | RTCC_FPGA_FAULT
};

struct rtcc_fpga_header {
    char magic[8];
    uint32_t version, regions;
    uint64_t model, bytes, memory;
    uint32_t row_bytes, tensors, checksum, map_bytes, configuration, reserved;
};

struct rtcc_fpga_region {
    uint64_t at, bytes, memory, rows;
    uint32_t length, inputs, outputs, tensor;
};

struct rtcc_fpga_tensor {
    uint32_t row, channels, pixels; /* of one image */
    uint32_t bytes;                 /* of an element, each in a plane of its own */
    uint32_t images, reserved;
};

/* Their sizes are the image's format (form.py). */
_Static_assert(sizeof(struct rtcc_fpga_header) == 64, "a header has 64 bytes");
_Static_assert(sizeof(struct rtcc_fpga_region) == 48, "a region has 48 bytes");
_Static_assert(sizeof(struct rtcc_fpga_tensor) == 24, "a tensor has 24 bytes");

static struct {
    struct rtcc_fpga_port port;
    const unsigned char *image;
    atomic_flag busy;
} rtcc_fpga = {.busy = ATOMIC_FLAG_INIT};

static uint32_t rtcc_fpga_crc(uint32_t crc, const unsigned char *data, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (UINT32_C(0xEDB88320) & (0 - (crc & 1)));
    }
    return crc;
}

/* CRC-32 of an image whose own checksum counts as zero. */
static uint32_t rtcc_fpga_checksum(const unsigned char *image, uint64_t bytes)
{
    const size_t at = offsetof(struct rtcc_fpga_header, checksum), after = at + sizeof(uint32_t);
    static const unsigned char zero[sizeof(uint32_t)];
    uint32_t crc = rtcc_fpga_crc(UINT32_MAX, image, at);
    crc = rtcc_fpga_crc(crc, zero, sizeof zero);
    return ~rtcc_fpga_crc(crc, image + after, bytes - after);
}

static struct rtcc_fpga_region rtcc_fpga_region_of(const unsigned char *image, uint32_t index)
{
    struct rtcc_fpga_region region;
    memcpy(&region, image + sizeof(struct rtcc_fpga_header) + index * sizeof region, sizeof region);
    return region;
}

static struct rtcc_fpga_tensor rtcc_fpga_tensor_of(const unsigned char *image, uint32_t index)
{
    struct rtcc_fpga_header header;
    struct rtcc_fpga_tensor tensor;
    memcpy(&header, image, sizeof header);
    const unsigned char *tensors =
        image + sizeof header + header.regions * sizeof(struct rtcc_fpga_region);
    memcpy(&tensor, tensors + index * sizeof tensor, sizeof tensor);
    return tensor;
}

/* Whether the core runs a program; not where it is gone and all bits read as ones. */
static int rtcc_fpga_runs(const struct rtcc_fpga_port *port)
{
    const uint32_t status = port->read(port->context, RTCC_FPGA_STATUS);
    return status <= RTCC_FPGA_STATUS_MOST && (status & RTCC_FPGA_BUSY);
}

/* Place an image in the memory of a port and keep both for runs; 0, or why not. */
static int rtcc_fpga_attach(const struct rtcc_fpga_port *port, const void *image, uint64_t bytes)
{
    struct rtcc_fpga_header header;
    if (port == NULL || image == NULL || port->read == NULL || port->write == NULL || port->memory == NULL)
        return RTCC_NULL_POINTER;
    if (bytes < sizeof header)
        return RTCC_IMAGE_DAMAGED;
    memcpy(&header, image, sizeof header);
    if (memcmp(header.magic, "RTCCFPGA", 8) != 0 || header.version != 3 || header.bytes != bytes
        || rtcc_fpga_checksum(image, bytes) != header.checksum)
        return RTCC_IMAGE_DAMAGED;
    if (header.model != RTCC_FPGA_MODEL)
        return RTCC_IMAGE_OTHER;
    if (port->read(port->context, RTCC_FPGA_IDENTITY) != RTCC_FPGA_IDENTITY_VALUE)
        return RTCC_DEVICE_MISSING;
    if (port->read(port->context, RTCC_FPGA_CONFIGURATION) != header.configuration)
        return RTCC_CORE_OTHER;
    if (port->address % RTCC_FPGA_PAGE != 0 || port->bytes < header.memory)
        return RTCC_DEVICE_MEMORY;
    if (rtcc_fpga_runs(port) || atomic_flag_test_and_set_explicit(&rtcc_fpga.busy, memory_order_acquire))
        return RTCC_DEVICE_BUSY;
    for (uint32_t index = 0; index < header.regions; index++) {
        const struct rtcc_fpga_region region = rtcc_fpga_region_of(image, index);
        memcpy(port->memory + region.memory, (const unsigned char *)image + region.at, region.bytes);
    }
    rtcc_fpga.port = *port;
    rtcc_fpga.image = image;
    atomic_flag_clear_explicit(&rtcc_fpga.busy, memory_order_release);
    return RTCC_OK;
}

/* Forget the port and the image; RTCC_DEVICE_BUSY where a run is under way, or the core still has to finish what
   a program had begun that was stopped, and all stays. */
static int rtcc_fpga_detach(void)
{
    if (atomic_flag_test_and_set_explicit(&rtcc_fpga.busy, memory_order_acquire))
        return RTCC_DEVICE_BUSY;
    const int runs = rtcc_fpga.image != NULL && rtcc_fpga_runs(&rtcc_fpga.port);
    if (!runs)
        rtcc_fpga.image = NULL;
    atomic_flag_clear_explicit(&rtcc_fpga.busy, memory_order_release);
    return runs ? RTCC_DEVICE_BUSY : RTCC_OK;
}

/* [images][channels][pixels] bytes to [blocks][images][pixels][row]; lanes beyond the channels are zero. */
static void rtcc_fpga_pack(unsigned char *rows, const unsigned char *data, struct rtcc_fpga_tensor t, uint32_t row)
{
    for (uint32_t first = 0; first < t.channels; first += row)
        for (uint32_t image = 0; image < t.images; image++, rows += (size_t)t.pixels * row) {
            const unsigned char *source = data + ((size_t)image * t.channels + first) * t.pixels;
            for (uint32_t pixel = 0; pixel < t.pixels; pixel++)
                for (uint32_t lane = 0; lane < row; lane++)
                    rows[(size_t)pixel * row + lane] =
                        first + lane < t.channels ? source[(size_t)lane * t.pixels + pixel] : 0;
        }
}

/* [blocks][bytes][images][pixels][row] bytes to [images][channels][pixels] little-endian elements. */
static void rtcc_fpga_unpack(unsigned char *data, const unsigned char *rows, struct rtcc_fpga_tensor t, uint32_t row)
{
    for (uint32_t image = 0; image < t.images; image++)
        for (uint32_t channel = 0; channel < t.channels; channel++, data += (size_t)t.pixels * t.bytes)
            for (uint32_t byte = 0; byte < t.bytes; byte++) {
                const size_t plane = (size_t)(channel / row) * t.bytes + byte;
                const unsigned char *source = rows + (plane * t.images + image) * t.pixels * row + channel % row;
                for (uint32_t pixel = 0; pixel < t.pixels; pixel++)
                    data[(size_t)pixel * t.bytes + byte] = source[(size_t)pixel * row];
            }
}

/* Read STATUS until the core is not busy, or so many times; each takes a cycle of the accelerator or more. */
static uint32_t rtcc_fpga_wait(const struct rtcc_fpga_port *port, uint64_t polls)
{
    uint32_t status;
    do
        status = port->read(port->context, RTCC_FPGA_STATUS);
    while (status & RTCC_FPGA_BUSY && status <= RTCC_FPGA_STATUS_MOST && --polls > 0);
    return status;
}

/* Run a region's program, and stop it when `polls` reads of STATUS find it busy: the core then finishes what its
   memory port has begun, for which it gets as many again. */
static int rtcc_fpga_start(const struct rtcc_fpga_port *port, const struct rtcc_fpga_region *region, uint64_t polls)
{
    const uint64_t base = port->address + region->memory;
    port->write(port->context, RTCC_FPGA_BASE_LOW, (uint32_t)base);
    port->write(port->context, RTCC_FPGA_BASE_HIGH, (uint32_t)(base >> 32));
    port->write(port->context, RTCC_FPGA_LIMIT, (uint32_t)region->rows);
    port->write(port->context, RTCC_FPGA_PROGRAM, 0);
    port->write(port->context, RTCC_FPGA_LENGTH, region->length);
    port->write(port->context, RTCC_FPGA_CONTROL, RTCC_FPGA_START);
    const uint32_t status = rtcc_fpga_wait(port, polls);
    if (status > RTCC_FPGA_STATUS_MOST)
        return RTCC_DEVICE_FAILED;
    if (status & RTCC_FPGA_BUSY) {
        port->write(port->context, RTCC_FPGA_CONTROL, RTCC_FPGA_ABORT);
        rtcc_fpga_wait(port, polls);
        return RTCC_DEVICE_TIMEOUT;
    }
    return (status & RTCC_FPGA_FAULT) || !(status & RTCC_FPGA_DONE) ? RTCC_DEVICE_FAILED : RTCC_OK;
}

static int32_t rtcc_fpga_run(uint32_t index, const void *const inputs[], void *const outputs[])
{
    if (rtcc_fpga.image == NULL)
        return RTCC_DEVICE_MISSING;
    if (rtcc_fpga.port.read(rtcc_fpga.port.context, RTCC_FPGA_STATUS) > RTCC_FPGA_STATUS_MOST)
        return RTCC_DEVICE_FAILED;
    if (rtcc_fpga_runs(&rtcc_fpga.port))
        return RTCC_DEVICE_TIMEOUT; /* its memory never finished what a program had begun that was stopped */
    struct rtcc_fpga_header header;
    memcpy(&header, rtcc_fpga.image, sizeof header);
    const struct rtcc_fpga_region region = rtcc_fpga_region_of(rtcc_fpga.image, index);
    unsigned char *memory = rtcc_fpga.port.memory + region.memory;
    for (uint32_t i = 0; i < region.inputs; i++) {
        const struct rtcc_fpga_tensor tensor = rtcc_fpga_tensor_of(rtcc_fpga.image, region.tensor + i);
        rtcc_fpga_pack(memory + (size_t)tensor.row * header.row_bytes, inputs[i], tensor, header.row_bytes);
    }
    const int code = rtcc_fpga_start(&rtcc_fpga.port, &region, rtcc_fpga_polls[index]);
    for (uint32_t i = 0; code == RTCC_OK && i < region.outputs; i++) {
        const struct rtcc_fpga_tensor tensor =
            rtcc_fpga_tensor_of(rtcc_fpga.image, region.tensor + region.inputs + i);
        rtcc_fpga_unpack(outputs[i], memory + (size_t)tensor.row * header.row_bytes, tensor, header.row_bytes);
    }
    return code;
}

/* One run of a region: inputs into the shared memory, the program, outputs out of it. The accelerator serves
   one caller at a time; another gets RTCC_DEVICE_BUSY. */
int32_t RTCC_FPGA_RUN(uint32_t index, const void *const inputs[], void *const outputs[])
{
    if (atomic_flag_test_and_set_explicit(&rtcc_fpga.busy, memory_order_acquire))
        return RTCC_DEVICE_BUSY;
    const int32_t code = rtcc_fpga_run(index, inputs, outputs);
    atomic_flag_clear_explicit(&rtcc_fpga.busy, memory_order_release);
    return code;
}
