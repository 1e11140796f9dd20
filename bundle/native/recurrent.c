/* An LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000) over rows of tokens, as
 * export/lower/fast_recurrent.py lowers it.
 */
#include "kernels.h"
#include <string.h>

typedef struct {
    float *gates;     /* [HEAD][4 hidden] */
    uint8_t *rounded; /* [HEAD][2 hidden] */
    uint8_t *picked;  /* [HEAD][hidden] */
    float *logits;    /* [HEAD][vocab] */
    float *high;      /* [HEAD][LANES] */
} Scratch;

static int64_t lay(const Recurrent *net, char *from, Scratch *into)
{
    char *start = from;
    into->gates = take(&from, (int64_t)HEAD * 4 * net->hidden * sizeof(float));
    into->rounded = take(&from, (int64_t)HEAD * 2 * net->hidden);
    into->picked = take(&from, (int64_t)HEAD * net->hidden);
    into->logits = take(&from, (int64_t)HEAD * net->vocab * sizeof(float));
    into->high = take(&from, HEAD * LANES * sizeof(float));
    return from - start;
}

/* Bytes of scratch; 64 more to begin at a whole line. */
int64_t voisin_recurrent_scratch(const Recurrent *net)
{
    Scratch unused;
    return lay(net, 0, &unused) + 64;
}

INLINE __m512 sigmoid(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(one, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

INLINE __m512 hyperbolic_tangent(__m512 x)
{
    __m512 twice = sigmoid(_mm512_add_ps(x, x));
    return _mm512_sub_ps(_mm512_add_ps(twice, twice), _mm512_set1_ps(1.0f));
}

/* Gates [4][size]: into, keep, out and new. */
static void turn(int32_t size, const float *gates, float *hidden, float *cell)
{
    for (int32_t at = 0; at < size; at += LANES) {
        __m512 into = sigmoid(_mm512_loadu_ps(gates + at)), keep = sigmoid(_mm512_loadu_ps(gates + size + at));
        __m512 out = sigmoid(_mm512_loadu_ps(gates + 2 * size + at));
        __m512 new = hyperbolic_tangent(_mm512_loadu_ps(gates + 3 * size + at));
        __m512 kept = _mm512_fmadd_ps(keep, _mm512_loadu_ps(cell + at), _mm512_mul_ps(into, new));
        _mm512_storeu_ps(cell + at, kept);
        _mm512_storeu_ps(hidden + at, _mm512_mul_ps(out, hyperbolic_tangent(kept)));
    }
}

static void look_up(const Recurrent *net, int64_t id, float *gates)
{
    const int8_t *row = net->table + id * 4 * net->hidden;
    __m512 scale = _mm512_set1_ps(net->table_scales[id]);
    for (int32_t at = 0; at < 4 * net->hidden; at += LANES) {
        __m512i numbers = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(row + at)));
        _mm512_storeu_ps(gates + at, _mm512_mul_ps(_mm512_cvtepi32_ps(numbers), scale));
    }
}

/* One token for each of some rows. */
static void step(const Recurrent *net, const Reading *run, int32_t time, const int32_t *rows, int32_t count,
                 const Scratch *s)
{
    const int64_t size = net->hidden;
    for (int32_t layer = 0; layer < net->depth; layer++) {
        float *hidden = run->states[2 * layer], *cell = run->states[2 * layer + 1];
        const float *below = layer ? run->states[2 * layer - 2] : 0;
        for (int32_t i = 0; i < count; i++) {
            int64_t row = rows[i];
            uint8_t *rounded = s->rounded + i * net->layers[layer].in;
            if (layer)
                round_known(size, below + row * size, net->inverse, rounded);
            else
                look_up(net, run->ids[row * run->time + time], s->gates + i * 4 * size);
            round_known(size, hidden + row * size, net->inverse, rounded + (layer ? size : 0));
        }
        multiply(net->layers + layer, count, s->rounded, 0, layer ? SET : ADD, s->gates, 0);
        for (int32_t i = 0; i < count; i++)
            turn(size, s->gates + i * 4 * size, hidden + rows[i] * size, cell + rows[i] * size);
    }
}

/* Reads the first counts[row] ids of every row. */
int32_t voisin_read(const Recurrent *net, const Reading *run, void *scratch)
{
    for (int64_t row = 0; row < run->rows; row++) {
        if (run->counts[row] < 1 || run->counts[row] > run->time)
            return TOO_LONG;
        for (int32_t i = 0; i < run->counts[row]; i++)
            if ((uint64_t)run->ids[row * run->time + i] >= (uint64_t)net->vocab)
                return FOREIGN_ID;
    }
    Scratch s;
    lay(net, (char *)whole((intptr_t)scratch, 64), &s);
    Head head = {.output = &net->output, .to_logits = run->logits, .to_scores = run->best_scores,
                 .to_ids = run->best_ids, .best = run->best, .rounded = s.picked, .logits = s.logits, .peaks = s.high};
    const float *top = run->states[2 * net->depth - 2];
    for (int32_t time = 0; time < run->time; time++)
        for (int32_t row = 0; row < run->rows;) {
            int32_t rows[HEAD], count = 0;
            for (; row < run->rows && count < HEAD; row++)
                if (time < run->counts[row])
                    rows[count++] = row;
            step(net, run, time, rows, count, &s);
            for (int32_t i = 0; i < count; i++)
                for (int32_t pick = 0; pick < run->picked; pick++) {
                    int64_t place = (int64_t)rows[i] * run->picked + pick;
                    if (run->picks[place] == time)
                        round_known(net->hidden, top + (int64_t)rows[i] * net->hidden, net->inverse,
                                    next_in_head(&head, place));
                }
        }
    flush_head(&head);
    return NONE;
}

/* Steps on by itself from states that stand at the beginning of `states` [most][rows][hidden]. What they are after
 * each step stands one behind the other. */
int32_t voisin_read_ahead(const Recurrent *net, const Reading *run, void *scratch, Going *going)
{
    int64_t size = (int64_t)run->rows * run->best, held = (int64_t)run->rows * net->hidden;
    int64_t started = microseconds_now();
    float *states[2 * MOST_LAYERS];
    Reading step = *run;
    step.states = states;
    going->done = 0;
    do {
        for (int32_t i = 0; i < 2 * net->depth; i++) {
            states[i] = run->states[i] + going->done * held;
            if (going->done)
                memcpy(states[i], states[i] - held, held * sizeof(float));
        }
        step.best_scores = going->best_scores + going->done * size;
        step.best_ids = going->best_ids + going->done * size;
        enum Fault fault = voisin_read(net, &step, scratch);
        if (fault)
            return going->done ? NONE : fault;
    } while (goes_on(going, run->rows, run->best, started, (int64_t *)run->ids));
    return NONE;
}
