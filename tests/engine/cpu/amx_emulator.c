/* Instructions on tiles (AMX) for processors that lack them: a handler of SIGILL decodes them, does
 * what Intel's Software Developer's Manual says on tiles of the thread's own, and steps over them.
 * Whatever the manual forbids ends the process with a line on stderr.
 *
 * Everything around those instructions runs on the processor itself.
 */
#define _GNU_SOURCE
#include <immintrin.h>
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64 };

/* What is counted, in the order in which `emulator_counts` gives it. */
enum { CONFIGURE, RELEASE, ZERO, LOAD, STORE, MULTIPLY, KINDS };

typedef struct {
    uint8_t palette;
    uint8_t rows[TILES];
    uint16_t row_bytes[TILES];
    uint8_t data[TILES][ROWS][ROW_BYTES];
} State;

typedef struct {
    int wide, prefix, map, opcode, mod, reg, rm, vvvv;
    uint8_t *address;    /* of the operand in memory; without the part below for tiles' rows */
    int64_t step;        /* from row to row: what the index register says */
    int length;
} Instruction;

static _Thread_local State state;
static uint64_t counts[KINDS];
static struct sigaction before;

static void count(int kind) { __atomic_add_fetch(&counts[kind], 1, __ATOMIC_RELAXED); }

static void forbidden(const char *what)
{
    static const char head[] = "tiles: ";
    (void)!write(2, head, sizeof head - 1);
    (void)!write(2, what, strlen(what));
    (void)!write(2, "\n", 1);
    abort();
}

/* ------------------------------------------------------------------ decoding */

static int64_t general_register(const ucontext_t *context, int number)
{
    static const int places[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                   REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                   REG_R12, REG_R13, REG_R14, REG_R15};
    return context->uc_mcontext.gregs[places[number]];
}

static int64_t displacement(const uint8_t *at, int size)
{
    int8_t one;
    int32_t four;
    if (size == 1) {
        memcpy(&one, at, 1);
        return one;
    }
    memcpy(&four, at, 4);
    return size == 4 ? four : 0;
}

/* Read the ModRM byte at `at` and what follows it. */
static void read_operands(Instruction *found, const ucontext_t *context, const uint8_t *begin,
                          const uint8_t *at, int high_reg, int high_index, int high_base)
{
    int modrm = *at++, size = 0;
    int64_t base;
    found->mod = modrm >> 6;
    found->reg = (modrm >> 3 & 7) | high_reg << 3;
    found->rm = (modrm & 7) | high_base << 3;
    if (found->mod == 3) {
        found->length = at - begin;
        return;
    }
    size = found->mod == 1 ? 1 : found->mod == 2 ? 4 : 0;
    if ((modrm & 7) == 4) {
        int sib = *at++, index = (sib >> 3 & 7) | high_index << 3, number = sib & 7;
        if (number == 5 && found->mod == 0) {
            base = 0;
            size = 4;
        } else
            base = general_register(context, number | high_base << 3);
        if (index != 4)
            found->step = (uint64_t)general_register(context, index) << (sib >> 6);
        base += displacement(at, size);
    } else if ((modrm & 7) == 5 && found->mod == 0) {
        size = 4;
        base = (int64_t)(at + 4) + displacement(at, size);
    } else
        base = general_register(context, found->rm) + displacement(at, size);
    found->address = (uint8_t *)base;
    found->length = at + size - begin;
}

static int decode(Instruction *found, const ucontext_t *context)
{
    const uint8_t *begin = (const uint8_t *)context->uc_mcontext.gregs[REG_RIP];
    memset(found, 0, sizeof *found);
    if (begin[0] != 0xC4)
        return 0;
    found->map = begin[1] & 31;
    found->wide = begin[2] >> 7 | (begin[2] >> 2 & 1); /* W, and L: both are 0 for tiles */
    found->vvvv = ~begin[2] >> 3 & 15;
    found->prefix = begin[2] & 3;
    found->opcode = begin[3];
    if (found->map != 2 || found->wide)
        return 0;
    if (found->opcode != 0x49 && found->opcode != 0x4B && found->opcode != 0x5C &&
        found->opcode != 0x5E)
        return 0;
    read_operands(found, context, begin, begin + 4, !(begin[1] & 0x80), !(begin[1] & 0x40),
                  !(begin[1] & 0x20));
    return 1;
}

/* ------------------------------------------------------------------ what they do */

static void check(int tile)
{
    if (!state.palette)
        forbidden("used without shapes");
    if (tile >= TILES || !state.rows[tile] || !state.row_bytes[tile])
        forbidden("a tile without a shape was used");
}

static void configure(const uint8_t *from)
{
    memset(&state, 0, sizeof state);
    if (from[0] == 0)
        return;
    if (from[0] != 1)
        forbidden("no such palette");
    for (int i = 1; i < 16; i++)
        if (from[i])
            forbidden("reserved bytes of a configuration are set");
    for (int tile = 0; tile < 16; tile++) {
        int row_bytes = from[16 + 2 * tile] | from[17 + 2 * tile] << 8, rows = from[48 + tile];
        if (tile >= TILES) {
            if (row_bytes || rows)
                forbidden("there are but eight tiles");
            continue;
        }
        if (row_bytes > ROW_BYTES || rows > ROWS || !row_bytes != !rows)
            forbidden("a shape that tiles cannot have");
        state.rows[tile] = rows;
        state.row_bytes[tile] = row_bytes;
    }
    state.palette = 1;
}

static void load(int tile, const uint8_t *from, int64_t step)
{
    check(tile);
    memset(state.data[tile], 0, sizeof state.data[tile]);
    for (int row = 0; row < state.rows[tile]; row++)
        memcpy(state.data[tile][row], from + row * step, state.row_bytes[tile]);
}

static void store(int tile, uint8_t *to, int64_t step)
{
    check(tile);
    for (int row = 0; row < state.rows[tile]; row++)
        memcpy(to + row * step, state.data[tile][row], state.row_bytes[tile]);
}

static void check_shapes(int sums, int left, int right)
{
    check(sums);
    check(left);
    check(right);
    if (sums == left || sums == right || left == right)
        forbidden("a product needs three different tiles");
    if (state.rows[sums] != state.rows[left] || state.row_bytes[sums] != state.row_bytes[right] ||
        state.row_bytes[left] != 4 * state.rows[right] || state.row_bytes[sums] % 4)
        forbidden("the shapes of a product do not fit");
}

static float widened(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* Even and odd terms are summed apart, each rounded once a product; then both are added. */
static void multiply_halves(int sums, int left, int right)
{
    int columns = state.row_bytes[sums] / 4, quads = state.row_bytes[left] / 4;
    unsigned mode = _mm_getcsr();
    _mm_setcsr(0x9FC0); /* denormals are zero on both ends, to nearest even, nothing is raised */
    for (int row = 0; row < state.rows[sums]; row++) {
        const uint16_t *x = (const uint16_t *)state.data[left][row];
        float *total = (float *)state.data[sums][row];
        float even[16] = {0}, odd[16] = {0};
        for (int k = 0; k < quads; k++) {
            const uint16_t *w = (const uint16_t *)state.data[right][k];
            float first = widened(x[2 * k]), second = widened(x[2 * k + 1]);
            for (int n = 0; n < columns; n++) {
                even[n] = fmaf(first, widened(w[2 * n]), even[n]);
                odd[n] = fmaf(second, widened(w[2 * n + 1]), odd[n]);
            }
        }
        for (int n = 0; n < columns; n++) {
            float both = even[n] + odd[n];
            total[n] = total[n] + both;
        }
    }
    _mm_setcsr(mode);
}

static void multiply_bytes(int sums, int left, int right, int left_signed, int right_signed)
{
    int columns = state.row_bytes[sums] / 4, quads = state.row_bytes[left] / 4;
    for (int row = 0; row < state.rows[sums]; row++) {
        const uint8_t *x = state.data[left][row];
        uint32_t *total = (uint32_t *)state.data[sums][row];
        for (int k = 0; k < quads; k++)
            for (int n = 0; n < columns; n++)
                for (int t = 0; t < 4; t++) {
                    uint8_t a = x[4 * k + t], b = state.data[right][k][4 * n + t];
                    int32_t first = left_signed ? (int8_t)a : a;
                    int32_t second = right_signed ? (int8_t)b : b;
                    total[n] += (uint32_t)(first * second);
                }
    }
}

/* Prefixes: 0 none, 1 66, 2 F3, 3 F2. */
static int execute(const Instruction *it)
{
    int in_memory = it->mod != 3;
    if (it->opcode == 0x49) {
        if (it->prefix == 0 && in_memory && it->reg == 0) {
            count(CONFIGURE);
            configure(it->address);
        } else if (it->prefix == 0 && !in_memory && it->reg == 0 && it->rm == 0) {
            count(RELEASE);
            memset(&state, 0, sizeof state);
        } else if (it->prefix == 3 && !in_memory && it->rm == 0) {
            count(ZERO);
            check(it->reg);
            memset(state.data[it->reg], 0, sizeof state.data[it->reg]);
        } else
            return 0;
        return 1;
    }
    if (it->opcode == 0x4B) {
        if (!in_memory || (it->rm & 7) != 4)
            return 0;
        if (it->prefix == 3 || it->prefix == 1) {
            count(LOAD);
            load(it->reg, it->address, it->step);
        } else if (it->prefix == 2) {
            count(STORE);
            store(it->reg, it->address, it->step);
        } else
            return 0;
        return 1;
    }
    if (in_memory)
        return 0;
    count(MULTIPLY);
    check_shapes(it->reg, it->rm, it->vvvv);
    if (it->opcode == 0x5E)
        multiply_bytes(it->reg, it->rm, it->vvvv, it->prefix >= 2, it->prefix & 1);
    else if (it->prefix == 2)
        multiply_halves(it->reg, it->rm, it->vvvv);
    else
        return 0;
    return 1;
}

static void on_illegal(int signal, siginfo_t *info, void *raw)
{
    ucontext_t *context = raw;
    Instruction found;
    (void)signal;
    (void)info;
    if (decode(&found, context) && execute(&found)) {
        context->uc_mcontext.gregs[REG_RIP] += found.length;
        return;
    }
    sigaction(SIGILL, &before, NULL); /* another instruction: it comes again, to who was there */
}

/* ------------------------------------------------------------------ for the tests */

int emulator_install(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_illegal;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    return sigaction(SIGILL, &action, &before);
}

void emulator_counts(uint64_t *into)
{
    for (int kind = 0; kind < KINDS; kind++)
        into[kind] = __atomic_load_n(&counts[kind], __ATOMIC_RELAXED);
}

/* Whether this thread's tiles have shapes. */
int emulator_is_configured(void) { return state.palette != 0; }
