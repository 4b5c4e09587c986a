/* A few tokens further for a few answers at once, through a whole model of the Llama family.
 *
 * What is read at once are rows: of each answer `tokens` that follow each other, answer after answer.
 * All threads go through the layers together and meet five times a layer. What is small (the norms) each of
 * them computes for itself, since that is faster than to wait for it.
 */
#include "native.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define QUERIES 4 /* at once, so that a key or value is read once for them */
#define ROOM(columns) ((columns) + 2 * BLOCK) /* of scores, which are written by whole vectors */

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

INLINE bf16 rounded(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

INLINE void round_16(__m512 values, bf16 *to, __mmask16 mask) {
    _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(values));
}

/* By 2^n times a polynomial of the rest; off by 2e-7 at most. */
INLINE __m512 exponential(__m512 x) {
    x = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(88)), _mm512_set1_ps(-87));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.0f / 720);
    const float rest[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1, 1};
    for (int i = 0; i < 6; i++) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(rest[i]));
    return _mm512_scalef_ps(p, n);
}

/* to: bf16, or null: in place. */
static void norm(float *values, const float *weight, int length, float epsilon, bf16 *to) {
    __m512 squares = _mm512_setzero_ps();
    for (int at = 0; at < length; at += 16) {
        const __m512 v = _mm512_maskz_loadu_ps(mask_of(length - at), values + at);
        squares = _mm512_fmadd_ps(v, v, squares);
    }
    const __m512 factor = _mm512_set1_ps(1 / sqrtf(_mm512_reduce_add_ps(squares) / length + epsilon));
    for (int at = 0; at < length; at += 16) {
        const __mmask16 mask = mask_of(length - at);
        const __m512 v = _mm512_maskz_loadu_ps(mask, values + at), w = _mm512_maskz_loadu_ps(mask, weight + at);
        const __m512 result = _mm512_mul_ps(_mm512_mul_ps(v, factor), w);
        if (to) round_16(result, to + at, mask);
        else _mm512_mask_storeu_ps(values + at, mask, result);
    }
}

static void rotate(const Model *model, float *values, int position, bf16 *to) {
    const int half = model->head_dim / 2;
    const float *cosine = model->cosines + (size_t)position * model->head_dim;
    const float *sine = model->sines + (size_t)position * model->head_dim;
    for (int i = 0; i < half; i++) {
        to[i] = rounded(values[i] * cosine[i] - values[i + half] * sine[i]);
        to[i + half] = rounded(values[i + half] * cosine[i + half] + values[i] * sine[i + half]);
    }
}

/* scores: room for `columns` and a vector more; on return exp(score - largest), and their sum is returned. */
static float softmax(float *scores, int columns) {
    float largest = -INFINITY;
    for (int i = 0; i < columns; i++) largest = scores[i] > largest ? scores[i] : largest;
    __m512 sum = _mm512_setzero_ps();
    for (int i = 0; i < columns; i += 16) {
        const __mmask16 mask = mask_of(columns - i);
        const __m512 e = exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + i), _mm512_set1_ps(largest)));
        _mm512_storeu_ps(scores + i, e);
        sum = _mm512_mask_add_ps(sum, mask, sum, e);
    }
    return _mm512_reduce_add_ps(sum);
}

/* The means of the values by the weights of `count` queries, (count, stride), which add up to sums. */
INLINE void weigh(const float *weights, size_t stride, const float *sums, const int count, const bf16 *values,
                  int columns, int head_dim, bf16 **to) {
    for (int at = 0; at < head_dim; at += 64) {
        __m512 result[QUERIES][4];
        for (int n = 0; n < count; n++)
            for (int i = 0; i < 4; i++) result[n][i] = _mm512_setzero_ps();
        for (int column = 0; column < columns; column++)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const int left = head_dim - at - 16 * i;
                if (left <= 0) break;
                const bf16 *value = values + (size_t)column * head_dim + at + 16 * i;
                const __m256i v = _mm256_maskz_loadu_epi16(mask_of(left), value);
                const __m512 wide = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
#pragma GCC unroll 4
                for (int n = 0; n < count; n++)
                    result[n][i] =
                        _mm512_fmadd_ps(_mm512_set1_ps(weights[n * stride + column]), wide, result[n][i]);
            }
        for (int n = 0; n < count; n++)
            for (int i = 0; i < 4 && at + 16 * i < head_dim; i++)
                round_16(_mm512_div_ps(result[n][i], _mm512_set1_ps(sums[n])), to[n] + at + 16 * i,
                         mask_of(head_dim - at - 16 * i));
    }
}

static int first_seen(const Layer *layer, int start, int column) {
    return layer->window && column + 1 - layer->window > start ? column + 1 - layer->window : start;
}

/* Piece of an answer: its tokens from `column` on, and the heads that share one key head. */
typedef struct {
    const Model *model;
    const Layer *layer;
    int answer, key_head, tokens, column;
} Piece;

static size_t row_of(const Piece *piece, int token) { return (size_t)piece->answer * piece->tokens + token; }

static float *projected_of(const Piece *piece, int token, int head) {
    const Model *model = piece->model;
    return model->projected +
           (row_of(piece, token) * (model->heads + 2 * model->key_heads) + head) * model->head_dim;
}

static size_t cache_of(const Piece *piece) {
    const Model *model = piece->model;
    return ((size_t)piece->answer * model->key_heads + piece->key_head) * model->capacity * model->head_dim;
}

static void remember(const Piece *piece, int token) {
    const Model *model = piece->model;
    const int dim = model->head_dim, now = piece->column + token;
    const size_t at = cache_of(piece) + (size_t)now * dim;
    float *key = projected_of(piece, token, model->heads + piece->key_head);
    const float *value = projected_of(piece, token, model->heads + model->key_heads + piece->key_head);
    if (piece->layer->key_norm) norm(key, piece->layer->key_norm, dim, model->epsilon, NULL);
    rotate(model, key, now - model->starts[piece->answer], piece->layer->keys + at);
    for (int i = 0; i < dim; i++) piece->layer->values[at + i] = rounded(value[i]);
}

/* Queries from the `at`th on, of which each token has as many as there are heads. They look at all that one of
 * them sees, and what another does not see counts 0. */
INLINE void attend_few(const Piece *piece, int at, const int count, float *scores) {
    const Model *model = piece->model;
    const Layer *layer = piece->layer;
    const int dim = model->head_dim, shared = model->heads / model->key_heads;
    const int start = model->starts[piece->answer];
    const int from = first_seen(layer, start, piece->column + at / shared);
    const int end = piece->column + (at + count - 1) / shared + 1;
    const size_t stride = ROOM(model->capacity), offset = cache_of(piece) + (size_t)from * dim;
    bf16 queries[count * PADDED(dim)], *to[QUERIES];
    memset(queries, 0, sizeof queries);
    for (int n = 0; n < count; n++) {
        const int token = (at + n) / shared, head = piece->key_head * shared + (at + n) % shared;
        float *query = projected_of(piece, token, head);
        if (layer->query_norm) norm(query, layer->query_norm, dim, model->epsilon, NULL);
        rotate(model, query, piece->column + token - start, queries + n * PADDED(dim));
        to[n] = model->attended + row_of(piece, token) * PADDED(model->heads * dim) + head * dim;
    }
    const Matrix keys = {.bits = 16, .rows = end - from, .columns = dim, .weights = layer->keys + offset};
    for (int block = 0; block < blocks_of(&keys); block++) {
        float part[QUERIES * BLOCK];
        multiply_block(&keys, block, queries, NULL, count, part);
        for (int n = 0; n < count; n++)
            _mm512_storeu_ps(scores + n * stride + block * BLOCK,
                             _mm512_mul_ps(_mm512_loadu_ps(part + n * BLOCK), _mm512_set1_ps(model->scaling)));
    }
    float sums[QUERIES];
    for (int n = 0; n < count; n++) {
        const int now = piece->column + (at + n) / shared;
        const int first = first_seen(layer, start, now) - from, last = now + 1 - from;
        float *seen = scores + n * stride;
        sums[n] = softmax(seen + first, last - first);
        for (int i = 0; i < first; i++) seen[i] = 0;
        for (int i = last; i < end - from; i++) seen[i] = 0;
    }
    weigh(scores, stride, sums, count, layer->values + offset, end - from, dim, to);
}

static void attend(const Piece *piece, float *scores) {
    const Model *model = piece->model;
    const int shared = model->heads / model->key_heads, start = model->starts[piece->answer];
    const int first = start > piece->column ? start - piece->column : 0, all = piece->tokens * shared;
    for (int token = first; token < piece->tokens; token++) remember(piece, token);
    int at = first * shared;
    for (; at + QUERIES <= all; at += QUERIES) attend_few(piece, at, QUERIES, scores);
    for (; at < all; at++) attend_few(piece, at, 1, scores);
}

/* Outputs of one block to where they belong. */
static void multiply_to(const Matrix *matrix, int block, const bf16 *inputs, const float *sums, int count,
                        float *to, size_t stride, int add) {
    float part[count * BLOCK];
    multiply_block(matrix, block, inputs, sums, count, part);
    for (int n = 0; n < count; n++)
        for (int row = 0; row < BLOCK && block * BLOCK + row < matrix->rows; row++) {
            float *here = to + n * stride + block * BLOCK + row;
            *here = add ? *here + part[n * BLOCK + row] : part[n * BLOCK + row];
        }
}

static void project(const Model *model, const Layer *layer, const bf16 *inputs, int rows, float *sums) {
    const Matrix *matrices[] = {&layer->query, &layer->key, &layer->value};
    const int starts[] = {0, model->heads * model->head_dim, (model->heads + model->key_heads) * model->head_dim};
    const size_t stride = (size_t)(model->heads + 2 * model->key_heads) * model->head_dim;
    const int ends[] = {blocks_of(matrices[0]), blocks_of(matrices[0]) + blocks_of(matrices[1]),
                        blocks_of(matrices[0]) + blocks_of(matrices[1]) + blocks_of(matrices[2])};
    sum_groups(matrices[0], inputs, rows, sums);
#pragma omp for schedule(static)
    for (int block = 0; block < ends[2]; block++) {
        const int which = block < ends[0] ? 0 : block < ends[1] ? 1 : 2;
        multiply_to(matrices[which], block - (which ? ends[which - 1] : 0), inputs, sums, rows,
                    model->projected + starts[which], stride, 0);
    }
}

static void gate_and_up(const Model *model, const Layer *layer, const bf16 *inputs, int rows, float *sums) {
    sum_groups(&layer->gate, inputs, rows, sums);
#pragma omp for schedule(static)
    for (int block = 0; block < blocks_of(&layer->gate); block++) {
        float gate[rows * BLOCK], up[rows * BLOCK];
        multiply_block(&layer->gate, block, inputs, sums, rows, gate);
        multiply_block(&layer->up, block, inputs, sums, rows, up);
        for (int n = 0; n < rows; n++) {
            const __m512 g = _mm512_loadu_ps(gate + n * BLOCK), u = _mm512_loadu_ps(up + n * BLOCK);
            const __m512 one = _mm512_set1_ps(1);
            const __m512 e = exponential(_mm512_sub_ps(_mm512_setzero_ps(), g));
            round_16(_mm512_mul_ps(_mm512_div_ps(g, _mm512_add_ps(one, e)), u),
                     model->activated + (size_t)n * PADDED(model->inner) + block * BLOCK,
                     mask_of(model->inner - block * BLOCK));
        }
    }
}

/* outputs: to + product, or the product alone. */
static void multiply_all(const Matrix *matrix, const bf16 *inputs, int rows, float *sums, float *to, int add) {
    sum_groups(matrix, inputs, rows, sums);
#pragma omp for schedule(static)
    for (int block = 0; block < blocks_of(matrix); block++)
        multiply_to(matrix, block, inputs, sums, rows, to, matrix->rows, add);
}

/* `count` rows of the residual stream, each `every` rows after the one before. */
static void normed(const Model *model, const float *weight, int first, int every, int count, bf16 *to) {
    for (int n = 0; n < count; n++)
        norm(model->residual + (size_t)(first + n * every) * model->hidden, weight, model->hidden,
             model->epsilon, to + (size_t)n * PADDED(model->hidden));
}

static size_t widest(const Model *model) {
    int most = model->hidden > model->inner ? model->hidden : model->inner;
    return most > model->heads * model->head_dim ? most : model->heads * model->head_dim;
}

/* ids: (count, tokens); column: of the first of them in the cache; logits: (count, vocabulary), of the token
 * that follows, or null. */
void step(const Model *model, const int64_t *ids, int tokens, int column, float *logits) {
#pragma omp parallel num_threads(model->threads)
    {
        const int count = model->count, rows = count * tokens, items = count * model->key_heads;
        bf16 *inputs = calloc((size_t)rows * PADDED(model->hidden), sizeof(bf16));
        float *scores = malloc(sizeof(float) * QUERIES * ROOM(model->capacity));
        float *sums = malloc(sizeof(float) * rows * (widest(model) / 8 + 1));
#pragma omp for schedule(static)
        for (int n = 0; n < rows; n++)
            for (int i = 0; i < model->hidden; i++) {
                const uint32_t bits = (uint32_t)model->embedding[ids[n] * model->hidden + i] << 16;
                memcpy(model->residual + (size_t)n * model->hidden + i, &bits, 4);
            }
        for (int l = 0; l < model->layer_count; l++) {
            const Layer *layer = model->layers + l;
            normed(model, layer->input_norm, 0, 1, rows, inputs);
            project(model, layer, inputs, rows, sums);
#pragma omp for schedule(static)
            for (int item = 0; item < items; item++) {
                const int answer = item / model->key_heads, key_head = item % model->key_heads;
                const Piece piece = {model, layer, answer, key_head, tokens, column};
                attend(&piece, scores);
            }
            multiply_all(&layer->output, model->attended, rows, sums, model->residual, 1);
            normed(model, layer->after_attention_norm, 0, 1, rows, inputs);
            gate_and_up(model, layer, inputs, rows, sums);
            multiply_all(&layer->down, model->activated, rows, sums, model->residual, 1);
        }
        if (logits) {
            normed(model, model->final_norm, tokens - 1, tokens, count, inputs);
            multiply_all(&model->head, inputs, count, sums, logits, 0);
        }
        free(inputs);
        free(scores);
        free(sums);
    }
}
