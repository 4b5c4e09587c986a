/* Attention of a few tokens over all that their answer holds so far. */
#include "model.h"
#include <math.h>

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

void attend(const Piece *piece, float *scores) {
    const Model *model = piece->model;
    const int shared = model->heads / model->key_heads, start = model->starts[piece->answer];
    const int first = start > piece->column ? start - piece->column : 0, all = piece->tokens * shared;
    for (int token = first; token < piece->tokens; token++) remember(piece, token);
    int at = first * shared;
    for (; at + QUERIES <= all; at += QUERIES) attend_few(piece, at, QUERIES, scores);
    for (; at < all; at++) attend_few(piece, at, 1, scores);
}
