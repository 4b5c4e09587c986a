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

static float dot(const bf16 *a, const bf16 *b, int length) {
    __m512 sum = _mm512_setzero_ps();
    for (int at = 0; at < length; at += 32) {
        const __mmask32 mask = mask_of_32(length - at);
        sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_maskz_loadu_epi16(mask, a + at),
                               (__m512bh)_mm512_maskz_loadu_epi16(mask, b + at));
    }
    return _mm512_reduce_add_ps(sum);
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

static void weigh(const float *weights, const bf16 *values, int columns, int head_dim, float sum, bf16 *to) {
    for (int at = 0; at < head_dim; at += 64) {
        __m512 result[4];
        for (int i = 0; i < 4; i++) result[i] = _mm512_setzero_ps();
        for (int column = 0; column < columns; column++) {
            const __m512 weight = _mm512_set1_ps(weights[column]);
            const bf16 *row = values + (size_t)column * head_dim + at;
            for (int i = 0; i < 4; i++) {
                const int left = head_dim - at - 16 * i;
                if (left <= 0) break;
                const __m256i v = _mm256_maskz_loadu_epi16(mask_of(left), row + 16 * i);
                const __m512 wide = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
                result[i] = _mm512_fmadd_ps(weight, wide, result[i]);
            }
        }
        for (int i = 0; i < 4 && at + 16 * i < head_dim; i++)
            round_16(_mm512_div_ps(result[i], _mm512_set1_ps(sum)), to + at + 16 * i,
                     mask_of(head_dim - at - 16 * i));
    }
}

/* The heads that share one key head, for one answer's tokens from `column` on. */
static void attend(const Model *model, const Layer *layer, int answer, int key_head, int tokens, int column,
                   float *scores) {
    const int dim = model->head_dim, shared = model->heads / model->key_heads, start = model->starts[answer];
    const size_t width = (size_t)(model->heads + 2 * model->key_heads) * dim;
    const size_t cache = ((size_t)answer * model->key_heads + key_head) * model->capacity * dim;
    bf16 *keys = layer->keys + cache, *values = layer->values + cache;
    for (int t = start > column ? start - column : 0; t < tokens; t++) {
        const int now = column + t;
        const size_t row = (size_t)answer * tokens + t;
        float *projected = model->projected + row * width;
        float *key = projected + (model->heads + key_head) * dim;
        const float *value = projected + (model->heads + model->key_heads + key_head) * dim;
        if (layer->key_norm) norm(key, layer->key_norm, dim, model->epsilon, NULL);
        rotate(model, key, now - start, keys + (size_t)now * dim);
        for (int i = 0; i < dim; i++) values[(size_t)now * dim + i] = rounded(value[i]);
        const int first = layer->window && now + 1 - layer->window > start ? now + 1 - layer->window : start;
        const int columns = now + 1 - first;
        for (int head = key_head * shared; head < (key_head + 1) * shared; head++) {
            float *query = projected + (size_t)head * dim;
            bf16 rotated[dim];
            if (layer->query_norm) norm(query, layer->query_norm, dim, model->epsilon, NULL);
            rotate(model, query, now - start, rotated);
            for (int i = 0; i < columns; i++)
                scores[i] = model->scaling * dot(rotated, keys + (size_t)(first + i) * dim, dim);
            const float sum = softmax(scores, columns);
            weigh(scores, values + (size_t)first * dim, columns, dim, sum,
                  model->attended + row * PADDED(model->heads * dim) + head * dim);
        }
    }
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
        float *scores = malloc(sizeof(float) * (model->capacity + 16));
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
            for (int item = 0; item < items; item++)
                attend(model, layer, item / model->key_heads, item % model->key_heads, tokens, column, scores);
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
