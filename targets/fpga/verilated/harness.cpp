// Drives the verilated core: registers, clock, and a DRAM with latency and back-pressure from a seeded generator.
//
// The memory is the strictest that AXI4 allows: a read sees what was written when its address was accepted, and a
// write takes effect when it is answered. So a program that relies on luck shows it.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

#include "Vrtcc_core.h"
#include "verilated.h"

namespace {

constexpr int kReadBeats = 1024;      // that the memory has accepted and not delivered
constexpr int kWrites = 16;           // transactions accepted and not answered
constexpr int kRegisters = 17;
constexpr uint64_t kNever = ~0ull;
constexpr uint32_t kStart = 1, kAbort = 2;  // written to kControl
constexpr int kBeatBytes = RTCC_DRAM_BITS / 8;

enum Register { kControl = 0x04, kFaults = 0x0c, kBaseLow = 0x10, kBaseHigh = 0x14, kLimit = 0x18, kProgram = 0x1c, kLength = 0x20 };

struct Settings {
  uint32_t seed;
  uint32_t latency;        // cycles from an accepted address to the first beat, and from the last beat to the answer
  uint32_t jitter;         // up to so many more, for each transaction
  uint32_t stall_percent;  // of cycles in which a channel does nothing
  uint64_t most_cycles;
  uint64_t bad_beat;       // the beat of DRAM that answers with an error, counted from the image's first; none: -1
  uint64_t abort_after;    // cycles after which the program is stopped; never: -1
  uint32_t again;          // whether one that was stopped is run again, to its end
};

struct Beat {
  uint64_t time;
  uint8_t data[kBeatBytes];
  bool id, last, error;
};

struct Write {
  uint64_t address, beats, time;
  bool answered_at_known;
};

class Random {
 public:
  explicit Random(uint32_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 0x1234567) {}
  uint32_t below(uint32_t limit) {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return limit ? static_cast<uint32_t>((state_ >> 33) % limit) : 0;
  }

 private:
  uint64_t state_;
};

class Bench {
 public:
  Bench(const Settings& settings, uint8_t* dram, uint64_t bytes, uint64_t base)
      : settings_(settings), random_(settings.seed), dram_(dram), bytes_(bytes), base_(base) {
    core_.reset = 1;
    core_.s_bready = 1;
    core_.s_rready = 1;
    for (int i = 0; i < 4; ++i) cycle();
    core_.reset = 0;
  }

  void write(uint8_t address, uint32_t value) {
    core_.s_awvalid = core_.s_wvalid = 1;
    core_.s_awaddr = address;
    core_.s_wdata = value;
    while (!cycle_until([this] { return core_.s_awready; })) {}
    core_.s_awvalid = core_.s_wvalid = 0;
    cycle();
  }

  uint32_t read(uint8_t address) {
    core_.s_arvalid = 1;
    core_.s_araddr = address;
    while (!cycle_until([this] { return core_.s_arready; })) {}
    core_.s_arvalid = 0;
    const uint32_t value = core_.s_rdata;
    cycle();
    return value;
  }

  // Starts the program; whether the core was done in time.
  bool run(uint64_t abort_after) {
    write(kControl, kStart);
    started_ = time_;
    answers_.clear();
    const uint64_t limit = time_ + settings_.most_cycles;
    while (!core_.irq && time_ < limit) {
      if (time_ == started_ + abort_after) write(kControl, kAbort);
      cycle();
    }
    return core_.irq;
  }

  // Whether no transaction of the memory port is open.
  bool is_quiet() const {
    return reads_.empty() && writes_.empty() && data_.empty() && !core_.m_arvalid && !core_.m_awvalid && !core_.m_wvalid;
  }

  bool protocol_held() const { return !violated_; }

  // When each burst of STORE was answered, in cycles since `run` began.
  const std::vector<uint32_t>& answers() const { return answers_; }

 private:
  void cycle() {
    cycle_until([] { return true; });
  }

  // One clock cycle; what `sampled` says just before the edge.
  template <typename Sampled>
  bool cycle_until(Sampled sampled) {
    drive();
    core_.clk = 0;
    core_.eval();
    const bool result = sampled();
    respond();
    core_.clk = 1;
    core_.eval();
    ++time_;
    return result;
  }

  bool stalls() { return random_.below(100) < settings_.stall_percent; }
  uint64_t after_latency() { return time_ + settings_.latency + random_.below(settings_.jitter + 1); }
  bool is_bad(uint64_t address) const { return address / kBeatBytes == settings_.bad_beat; }

  void drive() {
    core_.m_arready = reads_.size() < kReadBeats && !stalls();
    // A beat once shown stays until it is taken.
    if (!core_.m_rvalid || read_taken_) core_.m_rvalid = !reads_.empty() && reads_.front().time <= time_ && !stalls();
    if (core_.m_rvalid) {
      std::memcpy(&core_.m_rdata, reads_.front().data, kBeatBytes);
      core_.m_rid = reads_.front().id;
      core_.m_rlast = reads_.front().last;
      core_.m_rresp = reads_.front().error ? 2 : 0;
    }
    core_.m_awready = writes_.size() < kWrites && !stalls();
    core_.m_wready = !stalls();
    core_.m_bvalid = false;
    if (!writes_.empty() && writes_.front().answered_at_known && writes_.front().time <= time_ && !stalls()) {
      core_.m_bvalid = true;
      core_.m_bresp = finish_write() ? 0 : 2;
    }
  }

  void respond() {
    read_taken_ = core_.m_rvalid && core_.m_rready;
    if (read_taken_) reads_.pop_front();
    if (core_.m_arvalid && core_.m_arready) accept_read();
    if (core_.m_awvalid && core_.m_awready) accept_address();
    if (core_.m_wvalid && core_.m_wready) accept_data();
    match_writes();
  }

  void check_burst(uint64_t address, uint64_t beats) {
    const uint64_t begin = address - base_, end = begin + beats * kBeatBytes;
    if (address < base_ || end > bytes_ || address / 4096 != (address + beats * kBeatBytes - 1) / 4096) violated_ = true;
  }

  void accept_read() {
    const uint64_t beats = core_.m_arlen + 1;
    check_burst(core_.m_araddr, beats);
    const uint64_t time = after_latency();
    for (uint64_t i = 0; i < beats && !violated_; ++i) {
      Beat beat;
      const uint64_t offset = core_.m_araddr - base_ + i * kBeatBytes;
      beat.time = time;
      beat.id = core_.m_arid;
      beat.last = i + 1 == beats;
      beat.error = is_bad(offset);
      std::memcpy(beat.data, dram_ + offset, kBeatBytes);
      reads_.push_back(beat);
    }
  }

  void accept_address() {
    check_burst(core_.m_awaddr, core_.m_awlen + 1);
    writes_.push_back({core_.m_awaddr - base_, core_.m_awlen + 1u, 0, false});
  }

  void accept_data() {
    Beat beat;
    std::memcpy(beat.data, &core_.m_wdata, kBeatBytes);
    beat.last = core_.m_wlast;
    data_.push_back(beat);
  }

  // The oldest write whose data have all come is answered after the latency.
  void match_writes() {
    uint64_t beats = 0;
    for (auto& write : writes_) {
      beats += write.beats;
      if (data_.size() < beats) return;
      if (!write.answered_at_known) write.time = after_latency(), write.answered_at_known = true;
    }
  }

  bool finish_write() {
    const Write write = writes_.front();
    bool good = true;
    for (uint64_t i = 0; i < write.beats && !violated_; ++i) {
      const uint64_t offset = write.address + i * kBeatBytes;
      if (data_.front().last != (i + 1 == write.beats)) violated_ = true;
      if (is_bad(offset)) good = false;
      std::memcpy(dram_ + offset, data_.front().data, kBeatBytes);
      data_.pop_front();
    }
    writes_.pop_front();
    answers_.push_back(static_cast<uint32_t>(time_ - started_));
    return good;
  }

  Vrtcc_core core_;
  const Settings settings_;
  Random random_;
  uint8_t* dram_;
  uint64_t bytes_, base_;
  uint64_t time_ = 0, started_ = 0;
  bool read_taken_ = false, violated_ = false;
  std::deque<Beat> reads_, data_;
  std::deque<Write> writes_;
  std::vector<uint32_t> answers_;
};

}  // namespace

// Runs a program that lies in `dram`; `registers` takes all registers afterwards, `answers` the
// cycles in which bursts of STORE were answered, the first `room` of them, `answered` how many there are. 0: done, 1: still running after
// most_cycles, 2: a burst crossed a page, left the image, or had its last beat in the wrong place, 3: a program that was
// stopped left a transaction open. `stopped` takes the faults of one that was stopped.
extern "C" int rtcc_run(const Settings* settings, uint8_t* dram, uint64_t bytes, uint32_t row_bytes, uint32_t program,
                        uint32_t length, uint32_t* registers, uint32_t* answers, uint64_t room, uint64_t* answered,
                        uint32_t* stopped) {
  constexpr uint64_t kBase = 0x340001000;  // anything, so that a forgotten base shows
  Bench bench(*settings, dram, bytes, kBase);
  bench.write(kBaseLow, static_cast<uint32_t>(kBase));
  bench.write(kBaseHigh, static_cast<uint32_t>(kBase >> 32));
  bench.write(kLimit, static_cast<uint32_t>(bytes / row_bytes));
  bench.write(kProgram, program);
  bench.write(kLength, length);
  bool done = bench.run(settings->abort_after);
  if (settings->abort_after != kNever) {
    *stopped = bench.read(kFaults);
    if (done && !bench.is_quiet()) return 3;
    if (done && settings->again) done = bench.run(kNever);
  }
  for (int i = 0; i < kRegisters; ++i) registers[i] = bench.read(static_cast<uint8_t>(4 * i));
  *answered = bench.answers().size();
  std::copy_n(bench.answers().begin(), std::min(room, *answered), answers);
  if (!bench.protocol_held()) return 2;
  return done ? 0 : 1;
}
