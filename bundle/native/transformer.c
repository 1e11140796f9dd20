/* A Transformer (Vaswani et al. 2017; norms first, Xiong et al. 2020) over rows of tokens, as
 * export/lower/fast.py lowers it: the same numbers, without a call of the runtime for each operator.
 *
 * Rows are taken in bunches that fit the second cache with all that is computed of them.
 */
#include "kernels.h"
#include <string.h>

#define BUNCH 96 /* tokens, or one row where that is longer */

/* What is computed of the tokens of a bunch, one after the other in the scratch that the caller gives. */
typedef struct {
    float *x;         /* [tokens][hidden]: what runs through all blocks */
    float *wide;      /* [tokens][3 hidden or inner] */
    float *mixed;     /* [tokens][hidden] */
    uint8_t *rounded; /* [tokens][hidden or inner] */
    float *largest;   /* [tokens] */
    float *peaks;     /* [tokens][LANES] */
    float *scores;    /* [longest] of one head */
    uint8_t *picked;  /* [HEAD][hidden] */
    float *logits;    /* [HEAD][vocab] */
    float *high;      /* [HEAD][LANES] */
    int32_t *row, *at; /* [tokens]: of which row, and at which place of it */
} Scratch;

static int64_t widest(const Network *net)
{
    int64_t memory = net->memory_depth ? 2 * net->hidden : 0;
    int64_t wide = 3 * net->hidden > net->inner ? 3 * net->hidden : net->inner;
    return wide > memory ? wide : memory;
}

static int64_t lay(const Network *net, int64_t tokens, int64_t longest, char *from, Scratch *into)
{
    char *start = from;
    into->x = take(&from, tokens * net->hidden * sizeof(float));
    into->wide = take(&from, tokens * widest(net) * sizeof(float));
    into->mixed = take(&from, tokens * net->hidden * sizeof(float));
    into->rounded = take(&from, tokens * widest(net));
    into->largest = take(&from, tokens * sizeof(float));
    into->peaks = take(&from, tokens * LANES * sizeof(float));
    into->scores = take(&from, whole(longest, LANES) * sizeof(float));
    into->picked = take(&from, (int64_t)HEAD * net->hidden);
    into->logits = take(&from, net->output.out ? (int64_t)HEAD * net->vocab * sizeof(float) : 0);
    into->high = take(&from, HEAD * LANES * sizeof(float));
    into->row = take(&from, tokens * sizeof(int32_t));
    into->at = take(&from, tokens * sizeof(int32_t));
    return from - start;
}

static int64_t bunch(int64_t longest_row)
{
    return longest_row > BUNCH ? longest_row : BUNCH;
}

/* Bytes of scratch for rows of so many tokens that look at so many others; 64 more to begin at a whole line. */
int64_t voisin_scratch(const Network *net, int64_t longest_row, int64_t longest)
{
    Scratch unused;
    return lay(net, bunch(longest_row), longest, 0, &unused) + 64;
}

static Scratch laid(const Network *net, int64_t longest_row, int64_t longest, void *scratch)
{
    Scratch found;
    lay(net, bunch(longest_row), longest, (char *)whole((intptr_t)scratch, 64), &found);
    return found;
}

static void embed(const Network *net, int64_t id, int32_t at, float *x)
{
    const int8_t *token = net->tokens + id * net->hidden;
    const float *position = net->positions + (int64_t)(at < net->last_position ? at : net->last_position) * net->hidden;
    __m512 scale = _mm512_set1_ps(net->token_scales[id]), more = _mm512_set1_ps(net->token_scale);
    for (int32_t place = 0; place < net->hidden; place += LANES) {
        __m512i whole_numbers = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(token + place)));
        __m512 each = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(whole_numbers), scale), more);
        _mm512_storeu_ps(x + place, _mm512_add_ps(each, _mm512_loadu_ps(position + place)));
    }
}

static void norm_all(const Network *net, const Norm *norm, int32_t tokens, const Scratch *s)
{
    for (int32_t i = 0; i < tokens; i++)
        norm_round(norm, net->epsilon, net->hidden, s->x + (int64_t)i * net->hidden,
                   s->rounded + (int64_t)i * net->hidden);
}

/* x + the product of what the heads mixed. */
static void add_mixed(const Network *net, const Product *output, int32_t tokens, const Scratch *s)
{
    for (int32_t i = 0; i < tokens; i++)
        s->largest[i] = round_signed(net->hidden, s->mixed + (int64_t)i * net->hidden,
                                     s->rounded + (int64_t)i * net->hidden);
    multiply(output, tokens, s->rounded, s->largest, ADD, s->x, 0);
}

/* x + the feed-forward half. */
static void feed(const Network *net, const Block *block, int32_t tokens, const Scratch *s)
{
    const int32_t inner = net->inner;
    norm_all(net, &block->feed_norm, tokens, s);
    memset(s->peaks, 0, (int64_t)tokens * LANES * sizeof(float));
    multiply(&block->up, tokens, s->rounded, 0, net->gelu ? SET : RELU, s->wide, net->gelu ? 0 : s->peaks);
    for (int32_t i = 0; i < tokens; i++) {
        float *active = s->wide + (int64_t)i * inner;
        uint8_t *rounded = s->rounded + (int64_t)i * inner;
        if (net->gelu) {
            gelu(inner, active);
            s->largest[i] = round_signed(inner, active, rounded);
        } else {
            float peak = _mm512_reduce_max_ps(_mm512_loadu_ps(s->peaks + i * LANES));
            s->largest[i] = round_positive(inner, active, peak, rounded);
        }
    }
    multiply(&block->down, tokens, s->rounded, s->largest, ADD, s->x, 0);
}

/* Keys and values of new tokens go where the row ends; then each looks at all that stands not after it. */
static void look_back(const Network *net, const Decoding *run, int32_t index, int32_t tokens, const Scratch *s)
{
    const Block *block = net->blocks + index;
    const int32_t hidden = net->hidden, size = hidden / net->heads;
    norm_all(net, &block->self_norm, tokens, s);
    multiply(&block->inputs, tokens, s->rounded, 0, SET, s->wide, 0);
    for (int32_t i = 0; i < tokens; i++)
        for (int32_t head = 0; head < net->heads; head++) {
            const float *packed = s->wide + (int64_t)i * 3 * hidden + head * size;
            int64_t to = (((int64_t)s->row[i] * net->heads + head) * run->capacity + s->at[i]) * size;
            memcpy(run->keys[index] + to, packed + hidden, size * sizeof(float));
            memcpy(run->values[index] + to, packed + 2 * hidden, size * sizeof(float));
        }
    for (int32_t i = 0; i < tokens; i++)
        for (int32_t head = 0; head < net->heads; head++) {
            int64_t past = ((int64_t)s->row[i] * net->heads + head) * run->capacity * size;
            attend_near(s->wide + (int64_t)i * 3 * hidden + head * size, run->keys[index] + past,
                        run->values[index] + past, size, s->at[i] + 1, size, s->scores,
                        s->mixed + (int64_t)i * hidden + head * size);
        }
    add_mixed(net, &block->self_output, tokens, s);
}

static void look_at_source(const Network *net, const Decoding *run, int32_t index, int32_t tokens, const Scratch *s)
{
    const Block *block = net->blocks + index;
    const int32_t hidden = net->hidden, size = hidden / net->heads;
    norm_all(net, &block->cross_norm, tokens, s);
    multiply(&block->query, tokens, s->rounded, 0, SET, s->wide, 0);
    for (int32_t i = 0; i < tokens; i++) {
        int32_t row = s->row[i], count = run->source_counts[row];
        float *told = 0;
        if (run->attention && index == net->depth - 1)
            told = run->attention + ((int64_t)row * run->time + s->at[i] - run->lengths[row]) * run->source;
        for (int32_t head = 0; head < net->heads; head++) {
            int64_t memory = ((int64_t)row * net->heads + head) * run->source * size;
            attend_source(s->wide + (int64_t)i * hidden + head * size, run->memory_keys[index] + memory,
                          run->memory_values[index] + memory, run->source, count, size, s->scores,
                          s->mixed + (int64_t)i * hidden + head * size);
            for (int32_t place = 0; told && place < count; place++)
                told[place] += s->scores[place] / net->heads;
        }
    }
    add_mixed(net, &block->cross_output, tokens, s);
}

/* The picked tokens of rows first to end, which stand in x, are handed to the head. */
static void pick(const Network *net, const Decoding *run, int32_t first, int32_t end, const Scratch *s, Head *head)
{
    int64_t start = 0;
    for (int32_t row = first; row < end; start += run->counts[row++])
        for (int32_t pick = 0; pick < run->picked; pick++) {
            int64_t place = (int64_t)row * run->picked + pick, at = run->picks[place];
            /* what is picked beyond the tokens of a row stays as it is: nobody reads it */
            if ((uint64_t)at < (uint64_t)run->counts[row])
                norm_round(&net->last, net->epsilon, net->hidden, s->x + (start + at) * net->hidden,
                           next_in_head(head, place));
        }
    flush_head(head);
}

/* The first row that a bunch from `first` on has no room for. */
static int32_t bunched(const int32_t *counts, int32_t first, int32_t rows)
{
    int64_t tokens = counts[first++];
    while (first < rows && tokens + counts[first] <= BUNCH)
        tokens += counts[first++];
    return first;
}

/* The vectors of the tokens of rows first to end, one behind the other in x, and how many there are. Without lengths
 * every row begins at its first position. */
static int32_t gather(const Network *net, const int64_t *ids, const int32_t *counts, const int32_t *lengths,
                      int32_t first, int32_t end, int32_t time, const Scratch *s)
{
    int32_t tokens = 0;
    for (int32_t row = first; row < end; row++)
        for (int32_t i = 0; i < counts[row]; i++, tokens++) {
            s->row[tokens] = row;
            s->at[tokens] = (lengths ? lengths[row] : 0) + i;
            embed(net, ids[(int64_t)row * time + i], s->at[tokens], s->x + (int64_t)tokens * net->hidden);
        }
    return tokens;
}

/* Whether every id is a token, and the positions of every row are within the room there is. */
static enum Fault faults(const Network *net, const int64_t *ids, const int32_t *counts, const int32_t *lengths,
                         int32_t rows, int32_t time, int32_t room)
{
    for (int32_t row = 0; row < rows; row++) {
        int64_t before = lengths ? lengths[row] : 0, after = before + counts[row];
        if (before < 0 || counts[row] < 1 || counts[row] > time || after > room)
            return TOO_LONG;
        for (int32_t i = 0; i < counts[row]; i++)
            if ((uint64_t)ids[(int64_t)row * time + i] >= (uint64_t)net->vocab)
                return FOREIGN_ID;
        if ((after <= net->last_position ? after : net->last_position) > net->position_count)
            return MORE_POSITIONS;
    }
    return NONE;
}

/* Advances every row by its first counts[row] ids. Scratch is as large as voisin_scratch(net, time, capacity or
 * source, whichever is longer) says. */
int32_t voisin_decode(const Network *net, const Decoding *run, void *scratch)
{
    enum Fault fault = faults(net, run->ids, run->counts, run->lengths, run->rows, run->time, run->capacity);
    for (int32_t row = 0; row < run->rows && net->has_source && !fault; row++)
        if (run->source_counts[row] < 1 || run->source_counts[row] > run->source)
            fault = TOO_LONG;
    if (fault)
        return fault;
    int32_t longest = run->capacity > run->source ? run->capacity : run->source;
    Scratch s = laid(net, run->time, longest, scratch);
    Head head = {.output = &net->output, .to_logits = run->logits, .to_scores = run->best_scores,
                 .to_ids = run->best_ids, .best = run->best, .rounded = s.picked, .logits = s.logits, .peaks = s.high};
    for (int32_t first = 0, end; first < run->rows; first = end) {
        end = bunched(run->counts, first, run->rows);
        int32_t tokens = gather(net, run->ids, run->counts, run->lengths, first, end, run->time, &s);
        for (int32_t index = 0; index < net->depth; index++) {
            look_back(net, run, index, tokens, &s);
            if (net->has_source)
                look_at_source(net, run, index, tokens, &s);
            feed(net, net->blocks + index, tokens, &s);
        }
        pick(net, run, first, end, &s, &head);
    }
    return NONE;
}

/* Steps on by itself. Every row has one id, and there is room in the past for all steps; ids and lengths are written
 * on. */
int32_t voisin_ahead(const Network *net, const Decoding *run, void *scratch, Going *going)
{
    int64_t size = (int64_t)run->rows * run->best, started = microseconds_now();
    Decoding step = *run;
    going->done = 0;
    do {
        for (int32_t row = 0; row < run->rows && going->done; row++)
            ((int32_t *)run->lengths)[row]++;
        step.best_scores = going->best_scores + going->done * size;
        step.best_ids = going->best_ids + going->done * size;
        enum Fault fault = voisin_decode(net, &step, scratch);
        if (fault)
            return going->done ? NONE : fault;
    } while (goes_on(going, run->rows, run->best, started, (int64_t *)run->ids));
    return NONE;
}

/* Every token of a text looks at all of it. */
static void look_around(const Network *net, const Encoding *run, int32_t index, int32_t first, int32_t end,
                        int32_t tokens, const Scratch *s)
{
    const Block *block = net->blocks + index;
    const int32_t hidden = net->hidden, size = hidden / net->heads;
    norm_all(net, &block->self_norm, tokens, s);
    multiply(&block->inputs, tokens, s->rounded, 0, SET, s->wide, 0);
    const float *packed = s->wide;
    float *mixed = s->mixed;
    for (int32_t row = first; row < end; row++) {
        int64_t count = run->counts[row], stride = 3 * hidden;
        for (int32_t head = 0; head < net->heads; head++) {
            const float *query = packed + head * size;
            for (int32_t i = 0; i < count; i++)
                attend_near(query + i * stride, query + hidden, query + 2 * hidden, stride, count, size, s->scores,
                            mixed + (int64_t)i * hidden + head * size);
        }
        packed += count * stride;
        mixed += count * hidden;
    }
    add_mixed(net, &block->self_output, tokens, s);
}

/* Keys and values of the source for every block of the decoder. Beyond the tokens of a row they stay as they are. */
static void remember(const Network *net, const Encoding *run, int32_t tokens, const Scratch *s)
{
    const int32_t hidden = net->hidden, size = hidden / net->heads, source = run->source;
    const float scale = 1.0f / __builtin_sqrtf((float)size);
    norm_all(net, &net->last, tokens, s);
    for (int32_t index = 0; index < net->memory_depth; index++) {
        multiply(net->memory + index, tokens, s->rounded, 0, SET, s->wide, 0);
        for (int32_t i = 0; i < tokens; i++)
            for (int32_t head = 0; head < net->heads; head++) {
                const float *key = s->wide + (int64_t)i * 2 * hidden + head * size;
                int64_t to = ((int64_t)s->row[i] * net->heads + head) * source * size;
                for (int32_t place = 0; place < size; place++)
                    run->keys[index][to + (int64_t)place * source + s->at[i]] = key[place] * scale;
                memcpy(run->values[index] + to + (int64_t)s->at[i] * size, key + hidden, size * sizeof(float));
            }
    }
}

/* Reads every text. Scratch is as large as voisin_scratch(net, source, source) says. */
int32_t voisin_encode(const Network *net, const Encoding *run, void *scratch)
{
    enum Fault fault = faults(net, run->ids, run->counts, 0, run->rows, run->source, run->source);
    if (fault)
        return fault;
    Scratch s = laid(net, run->source, run->source, scratch);
    for (int32_t first = 0, end; first < run->rows; first = end) {
        end = bunched(run->counts, first, run->rows);
        int32_t tokens = gather(net, run->ids, run->counts, 0, first, end, run->source, &s);
        for (int32_t index = 0; index < net->depth; index++) {
            look_around(net, run, index, first, end, tokens, &s);
            feed(net, net->blocks + index, tokens, &s);
        }
        remember(net, run, tokens, &s);
    }
    return NONE;
}
