/* What the files of this folder share. A number is float32 or a whole number; a row is one token of one text.
 *
 * No row knows another: whatever is computed of it is computed in the same order, alone or among many. Sums of
 * whole numbers do not depend on their order; every other sum here runs over the row itself, lane by lane.
 */
#ifndef VOISIN_KERNELS_H
#define VOISIN_KERNELS_H

#include <immintrin.h>
#include <stdint.h>
#include <time.h>

#define PANEL 64 /* output channels that are multiplied together: four registers of sixteen sums */
#define LANES 16
#define MOST_LAYERS 16 /* of a recurrent model */
#define HEAD 96 /* rows whose logits are computed together */
#define INLINE static inline __attribute__((always_inline))

/* A matrix of whole numbers and what its products are worth. Inputs are uint8, `zero` stands for nought. */
typedef struct {
    const int8_t *packed;   /* [panels][in / 4][PANEL][4] */
    const int32_t *offset;  /* [panels * PANEL]: -zero times the sum of each channel */
    const float *scales;    /* [panels * PANEL]: what a unit of the input times one of the channel is worth */
    const float *bias;      /* [panels * PANEL] */
    int32_t in, out;        /* in is a multiple of LANES */
} Product;

/* A layer norm whose numbers are rounded with one scale that holds for every row. */
typedef struct {
    const float *weight, *bias; /* [hidden] */
    float inverse;              /* one over what a unit of the rounded numbers is worth */
} Norm;

typedef struct {
    Norm self_norm;
    Product inputs, self_output; /* query, key and value side by side */
    Norm cross_norm;             /* unused without a source */
    Product query, cross_output;
    Norm feed_norm;
    Product up, down;
} Block;

typedef struct {
    const int8_t *tokens;      /* [vocab][hidden] */
    const float *token_scales; /* [vocab] */
    const float *positions;    /* [position_count][hidden] */
    const Block *blocks;
    const Product *memory; /* of an encoder: key and value of each block of the decoder */
    Norm last;
    Product output; /* of a decoder */
    float token_scale, epsilon;
    int32_t position_count, last_position; /* beyond last_position the vector of the last is taken */
    int32_t depth, memory_depth;
    int32_t hidden, heads, inner, vocab, has_source, gelu;
} Network;

/* One run of a decoder. Arrays are contiguous; past and memory are float32 [rows][heads][...]. */
typedef struct {
    const int64_t *ids;                /* [rows][time] */
    const int32_t *counts, *lengths;   /* [rows] */
    const int64_t *picks;              /* [rows][picked] */
    const int32_t *source_counts;      /* [rows] */
    float *const *keys, *const *values; /* of each block [rows][heads][capacity][size], written in place */
    const float *const *memory_keys;    /* [rows][heads][size][source] */
    const float *const *memory_values;  /* [rows][heads][source][size] */
    float *logits;                      /* [rows][picked][vocab], or null */
    float *best_scores;                 /* [rows][picked][best], or null */
    int64_t *best_ids;
    float *attention; /* [rows][time][source], of the last block, or null */
    int32_t rows, time, picked, capacity, source, best;
} Decoding;

/* One run of an encoder. */
typedef struct {
    const int64_t *ids;    /* [rows][source] */
    const int32_t *counts; /* [rows] */
    float *const *keys;    /* of each block of the decoder [rows][heads][size][source] */
    float *const *values;  /* [rows][heads][source][size] */
    int32_t rows, source;
} Encoding;

/* A recurrent language model: an LSTM whose first layer looks the tokens' share of its gates up. */
typedef struct {
    const int8_t *table;       /* [vocab][4 hidden] */
    const float *table_scales; /* [vocab] */
    const Product *layers;     /* of the first what it holds, of the others what stands below and what they hold */
    Product output;
    float inverse; /* one over what a unit of a rounded hidden state is worth */
    int32_t depth, hidden, vocab;
} Recurrent;

/* One run of a recurrent model. */
typedef struct {
    const int64_t *ids;     /* [rows][time] */
    const int32_t *counts;  /* [rows] */
    const int64_t *picks;   /* [rows][picked] */
    float *const *states;   /* hidden and cell of each layer [rows][hidden], read and written */
    float *logits;          /* as in Decoding */
    float *best_scores;
    int64_t *best_ids;
    int32_t rows, time, picked, best;
} Reading;

/* Steps that rows go on by themselves, each with its likeliest token that is not banned: `most`, or fewer where a row
 * comes to its `end` or so many microseconds are over.
 */
typedef struct {
    const uint8_t *banned;       /* [vocab] */
    float *best_scores;          /* [most][rows][best], written */
    int64_t *best_ids;
    float *scores;               /* [most][rows]: of the tokens taken */
    int64_t *ids;
    int64_t end, microseconds;
    int32_t most, done;          /* done: how many there were */
} Going;

/* Rows that wait for their logits, until there are as many as one product takes. */
typedef struct {
    const Product *output;
    float *to_logits, *to_scores; /* where they go, or null */
    int64_t *to_ids;
    int32_t best, found;
    uint8_t *rounded; /* [HEAD][in] */
    float *logits;    /* [HEAD][out] */
    float *peaks;     /* [HEAD][LANES] */
    int64_t places[HEAD];
} Head;

/* What a run answers. */
enum Fault { NONE, FOREIGN_ID, TOO_LONG, MORE_POSITIONS };

/* product.c */
enum Then { SET, ADD, RELU };
void multiply(const Product *product, int32_t rows, const uint8_t *x, const float *largest, enum Then then,
              float *y, float *peaks);

/* head.c */
uint8_t *next_in_head(Head *head, int64_t place);
void flush_head(Head *head);
int goes_on(Going *going, int32_t rows, int32_t best, int64_t started, int64_t *ids);

/* rows.c */
void round_known(int32_t size, const float *x, float inverse, uint8_t *rounded);
void norm_round(const Norm *norm, float epsilon, int32_t size, const float *x, uint8_t *rounded);
float round_signed(int32_t size, const float *x, uint8_t *rounded);
float round_positive(int32_t size, const float *x, float largest, uint8_t *rounded);
void gelu(int32_t size, float *x);
void best_of(int32_t count, const float *logits, __m512 peaks, int32_t best, float *scores, int64_t *ids);

/* attention.c */
void attend_near(const float *query, const float *keys, const float *values, int64_t stride, int32_t count,
                 int32_t size, float *scores, float *mixed);
void attend_source(const float *query, const float *keys, const float *values, int32_t source, int32_t count,
                   int32_t size, float *scores, float *mixed);

static inline __mmask16 first_lanes(int32_t count)
{
    return count >= LANES ? (__mmask16)0xffff : (__mmask16)((1u << count) - 1);
}

/* e^x, to about one unit in the last place; e^-87 from there down, which a sum that holds e^0 does not notice, while
 * processors take a hundred times as long for smaller numbers. Cody and Waite's reduction, then a polynomial. */
INLINE __m512 exponential(__m512 x)
{
    x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
    __m512 power = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    __m512 rest = _mm512_fnmadd_ps(power, _mm512_set1_ps(0.693359375f), x);
    rest = _mm512_fnmadd_ps(power, _mm512_set1_ps(-2.12194440e-4f), rest);
    /* Taylor's coefficients: |rest| is at most ln 2 / 2, where the next term is 5e-9 */
    __m512 found = _mm512_set1_ps(1.0f / 5040.0f);
    found = _mm512_fmadd_ps(found, rest, _mm512_set1_ps(1.0f / 720.0f));
    found = _mm512_fmadd_ps(found, rest, _mm512_set1_ps(1.0f / 120.0f));
    found = _mm512_fmadd_ps(found, rest, _mm512_set1_ps(1.0f / 24.0f));
    found = _mm512_fmadd_ps(found, rest, _mm512_set1_ps(1.0f / 6.0f));
    found = _mm512_fmadd_ps(found, rest, _mm512_set1_ps(0.5f));
    found = _mm512_fmadd_ps(found, rest, _mm512_set1_ps(1.0f));
    found = _mm512_fmadd_ps(found, rest, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(found, power);
}

static inline int64_t whole(int64_t size, int64_t group)
{
    return (size + group - 1) / group * group;
}

/* The next of the arrays that lie one behind the other, each at a whole line of the caches. */
static inline void *take(char **from, int64_t bytes)
{
    void *found = *from;
    *from += whole(bytes, 64);
    return found;
}

static inline int64_t microseconds_now(void)
{
    struct timespec found;
    clock_gettime(CLOCK_MONOTONIC, &found);
    return (int64_t)found.tv_sec * 1000000 + found.tv_nsec / 1000;
}

#endif
