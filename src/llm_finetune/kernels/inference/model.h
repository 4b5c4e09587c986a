/* A model of the Llama family as the kernels see it; library.py describes Layer and Model to Python. */
#include "native.h"

typedef struct {
    Matrix query, key, value, output, gate, up, down;
    const float *input_norm, *after_attention_norm; /* (hidden) */
    const float *query_norm, *key_norm;             /* (head_dim), or null */
    bf16 *keys, *values;                            /* (count, key_heads, capacity, head_dim) */
    int32_t window;                                 /* columns that a token sees, itself included; 0: all */
} Layer;

typedef struct {
    int32_t layer_count, hidden, inner, heads, key_heads, head_dim, capacity, count, threads;
    float epsilon, scaling;
    const Layer *layers;
    const bf16 *embedding;   /* (vocabulary, hidden) */
    const float *final_norm; /* (hidden) */
    Matrix head;
    const float *cosines, *sines; /* (capacity, head_dim) */
    const int32_t *starts;        /* (count): the column of each prompt's first token */
    float *residual, *projected;  /* scratch: (rows, hidden), (rows, (heads + 2 key_heads) head_dim) */
    bf16 *attended, *activated;   /* scratch: (rows, PADDED(heads head_dim)), (rows, PADDED(inner)) */
} Model;

/* A piece of an answer: its tokens from `column` on, and the heads that share one key head. */
typedef struct {
    const Model *model;
    const Layer *layer;
    int answer, key_head, tokens, column;
} Piece;

#define ROOM(columns) ((columns) + 2 * BLOCK) /* of scores, which are written by whole vectors */
#define QUERIES 4                             /* at once, so that a key or value is read once for them */

/* By the root of the mean square. to: bf16, or null: in place. */
void norm(float *values, const float *weight, int length, float epsilon, bf16 *to);

/* From a piece's projections to what it attended to. scores: room for QUERIES * ROOM(capacity). */
void attend(const Piece *piece, float *scores);
