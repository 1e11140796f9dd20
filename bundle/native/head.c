/* Logits and the best tokens of rows that are rounded already, and what rows that go on by themselves take of them. */
#include "kernels.h"
#include <string.h>

/* Where the rounded row goes whose answers stand at `place`. */
uint8_t *next_in_head(Head *head, int64_t place)
{
    if (head->found == HEAD)
        flush_head(head);
    _mm512_storeu_ps(head->peaks + head->found * LANES, _mm512_set1_ps(-__builtin_inff()));
    head->places[head->found] = place;
    return head->rounded + (int64_t)head->found++ * head->output->in;
}

/* Answers for all that wait. */
void flush_head(Head *head)
{
    const int64_t vocab = head->output->out;
    if (!head->found)
        return;
    multiply(head->output, head->found, head->rounded, 0, SET, head->logits, head->peaks);
    for (int32_t i = 0; i < head->found; i++) {
        const float *logits = head->logits + i * vocab;
        if (head->to_logits)
            memcpy(head->to_logits + head->places[i] * vocab, logits, vocab * sizeof(float));
        if (head->to_scores)
            best_of(vocab, logits, _mm512_loadu_ps(head->peaks + i * LANES), head->best,
                    head->to_scores + head->places[i] * head->best, head->to_ids + head->places[i] * head->best);
    }
    head->found = 0;
}

/* After a step, whose best tokens are there: each row takes one, and it is said whether there is another step, for
 * which the tokens stand in `ids`. */
int goes_on(Going *going, int32_t rows, int32_t best, int64_t started, int64_t *ids)
{
    int ended = 0;
    for (int64_t row = 0; row < rows; row++) {
        int64_t from = ((int64_t)going->done * rows + row) * best, place = 0;
        while (place < best - 1 && going->banned[going->best_ids[from + place]])
            place++;
        ids[row] = going->ids[going->done * (int64_t)rows + row] = going->best_ids[from + place];
        going->scores[going->done * (int64_t)rows + row] = going->best_scores[from + place];
        ended |= ids[row] == going->end;
    }
    return ++going->done < going->most && !ended && microseconds_now() - started < going->microseconds;
}
