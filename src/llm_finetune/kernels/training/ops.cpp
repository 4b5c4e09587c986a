// Single passes over tensors that stay between the matrix products, for float and bfloat16.
// All tensors are dense, row after row; arithmetic is in float. Formulas stand above each function.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

struct bfloat16 { uint16_t bits; };

inline float load(float x) { return x; }
inline float load(bfloat16 x) {
    uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline void store(float& to, float x) { to = x; }
inline void store(bfloat16& to, float x) {  // to nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    to.bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// exp by 2^n times a polynomial of degree 6 (Cephes), which compilers turn into vector code; 2e-7 relative.
inline float exp_(float x) {
    x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    float n = std::floor(x * 1.44269504f + 0.5f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, 4);
    return p * power;
}

inline float logistic(float x) { return 1.0f / (1.0f + exp_(-x)); }

#define ROWS _Pragma("omp parallel for schedule(static) num_threads(threads)")
#define EACH _Pragma("omp simd")
#define PRAGMA(x) _Pragma(#x)

// y = x r (w + shift), r = 1 / sqrt(mean(x^2) + eps)
template <class T>
void rms_norm(const T* x, const T* w, T* y, float* r, long rows, long width, float eps, float shift, int threads) {
    ROWS
    for (long i = 0; i < rows; i++) {
        const T* xi = x + i * width;
        float squares = 0;
        PRAGMA(omp simd reduction(+ : squares))
        for (long j = 0; j < width; j++) squares += load(xi[j]) * load(xi[j]);
        const float ri = r[i] = 1.0f / std::sqrt(squares / width + eps);
        EACH
        for (long j = 0; j < width; j++) store(y[i * width + j], load(xi[j]) * ri * (load(w[j]) + shift));
    }
}

// dx = r (g - x r^2 mean(g x)), g = dy (w + shift)
template <class T>
void rms_norm_grad(const T* dy, const T* x, const T* w, const float* r, T* dx, long rows, long width, float shift,
                   int threads) {
    ROWS
    for (long i = 0; i < rows; i++) {
        const T *xi = x + i * width, *di = dy + i * width;
        float dot = 0;
        PRAGMA(omp simd reduction(+ : dot))
        for (long j = 0; j < width; j++) dot += load(di[j]) * (load(w[j]) + shift) * load(xi[j]);
        const float ri = r[i], along = dot / width * ri * ri;
        EACH
        for (long j = 0; j < width; j++)
            store(dx[i * width + j], ri * (load(di[j]) * (load(w[j]) + shift) - load(xi[j]) * along));
    }
}

// Rotary embedding of x (tokens, heads, width), y = x cos + (-x2, x1) sin; with `back` its transpose.
template <class T>
void rotate(const T* x, const T* cos, const T* sin, T* y, long tokens, long heads, long width, int back, int threads) {
    const long half = width / 2;
    ROWS
    for (long i = 0; i < tokens; i++) {
        const T *c = cos + i * width, *s = sin + i * width;
        for (long h = 0; h < heads; h++) {
            const T* a = x + (i * heads + h) * width;
            T* b = y + (i * heads + h) * width;
            if (back) {
                EACH
                for (long j = 0; j < half; j++) {
                    const float x1 = load(a[j]), x2 = load(a[j + half]);
                    store(b[j], x1 * load(c[j]) + x2 * load(s[j + half]));
                    store(b[j + half], x2 * load(c[j + half]) - x1 * load(s[j]));
                }
            } else {
                EACH
                for (long j = 0; j < half; j++) {
                    const float x1 = load(a[j]), x2 = load(a[j + half]);
                    store(b[j], x1 * load(c[j]) - x2 * load(s[j]));
                    store(b[j + half], x2 * load(c[j + half]) + x1 * load(s[j + half]));
                }
            }
        }
    }
}

// act(x) and its derivative; SiLU: x logistic(x); GELU by tanh: x logistic(2 k (x + 0.044715 x^3)).
struct Silu {
    static inline void at(float x, float& y, float& slope) {
        const float l = logistic(x);
        y = x * l;
        slope = l * (1.0f + x * (1.0f - l));
    }
};
struct Gelu {
    static inline void at(float x, float& y, float& slope) {
        const float k = 1.5957691216f, l = logistic(k * (x + 0.044715f * x * x * x));
        y = x * l;
        slope = l + x * l * (1.0f - l) * k * (1.0f + 0.134145f * x * x);
    }
};

constexpr long CHUNK = 4096, VECTOR = 32;

// y = act(gate) up
template <class A, class T>
void gated(const T* gate, const T* up, T* y, long n, int threads) {
    ROWS
    for (long start = 0; start < n; start += CHUNK) {
        const long end = start + CHUNK < n ? start + CHUNK : n;
        EACH
        for (long i = start; i < end; i++) {
            float a, slope;
            A::at(load(gate[i]), a, slope);
            store(y[i], a * load(up[i]));
        }
    }
}

// dgate = dy up act'(gate), dup = dy act(gate)
template <class A, class T>
void gated_grad(const T* dy, const T* gate, const T* up, T* dgate, T* dup, long n, int threads) {
    ROWS
    for (long start = 0; start < n; start += CHUNK) {
        const long end = start + CHUNK < n ? start + CHUNK : n;
        EACH
        for (long i = start; i < end; i++) {
            float a, slope;
            A::at(load(gate[i]), a, slope);
            const float d = load(dy[i]);
            store(dgate[i], d * load(up[i]) * slope);
            store(dup[i], d * a);
        }
    }
}

// The keys that query i of a block sees: up to its own, and `window` of them at most (0: all).
inline void seen(long i, long first_query, long first_key, long keys, long window, long& from, long& to) {
    const long query = first_query + i;
    to = query + 1 - first_key < keys ? query + 1 - first_key : keys;
    from = window && query + 1 - window > first_key ? query + 1 - window - first_key : 0;
}

// In place: softmax(scale x) over the keys that are seen, 0 elsewhere. x: (matrices, queries, keys).
// Whole vectors are computed, with 0 where nothing is seen: the tails of short loops would cost more.
template <class T>
void softmax(T* x, long matrices, long queries, long keys, long first_query, long first_key, long window, float scale,
             int threads) {
    ROWS
    for (long row = 0; row < matrices * queries; row++) {
        static thread_local std::vector<float> powers;
        if (static_cast<long>(powers.size()) < keys) powers.resize(keys);
        float* e = powers.data();
        T* p = x + row * keys;
        long from, to;
        seen(row % queries, first_query, first_key, keys, window, from, to);
        const long begin = from / VECTOR * VECTOR, end = std::min(keys, (to + VECTOR - 1) / VECTOR * VECTOR);
        float top = -INFINITY, sum = 0;
        PRAGMA(omp simd reduction(max : top))
        for (long j = begin; j < end; j++) {
            const float v = j >= from && j < to ? load(p[j]) : -INFINITY;
            top = v > top ? v : top;
        }
        PRAGMA(omp simd reduction(+ : sum))
        for (long j = begin; j < end; j++) {
            const float v = j >= from && j < to ? exp_(scale * (load(p[j]) - top)) : 0.0f;
            e[j] = v;
            sum += v;
        }
        const float inverse = 1.0f / sum;
        EACH
        for (long j = begin; j < end; j++) store(p[j], e[j] * inverse);
        std::memset(p, 0, begin * sizeof(T));
        std::memset(p + end, 0, (keys - end) * sizeof(T));
    }
}

// In place in dp: scale p (dp - sum(p dp)).
template <class T>
void softmax_grad(const T* p, T* dp, long rows, long keys, float scale, int threads) {
    ROWS
    for (long row = 0; row < rows; row++) {
        const T* a = p + row * keys;
        T* d = dp + row * keys;
        float dot = 0;
        PRAGMA(omp simd reduction(+ : dot))
        for (long j = 0; j < keys; j++) dot += load(a[j]) * load(d[j]);
        EACH
        for (long j = 0; j < keys; j++) store(d[j], scale * load(a[j]) * (load(d[j]) - dot));
    }
}

// logp = log softmax(x)[target]; in place in x, if `grad`, its gradient: onehot(target) - softmax(x).
template <class T>
void label_log_probs(T* x, const int64_t* target, float* logp, long rows, long vocab, int grad, int threads) {
    ROWS
    for (long i = 0; i < rows; i++) {
        T* xi = x + i * vocab;
        float top = -INFINITY, sum = 0;
        PRAGMA(omp simd reduction(max : top))
        for (long j = 0; j < vocab; j++) top = load(xi[j]) > top ? load(xi[j]) : top;
        PRAGMA(omp simd reduction(+ : sum))
        for (long j = 0; j < vocab; j++) sum += exp_(load(xi[j]) - top);
        const float own = load(xi[target[i]]) - top;
        logp[i] = own - std::log(sum);
        if (grad) {
            const float inverse = -1.0f / sum;
            EACH
            for (long j = 0; j < vocab; j++) store(xi[j], exp_(load(xi[j]) - top) * inverse);
            store(xi[target[i]], 1.0f - std::exp(own) / sum);
        }
    }
}

// y = x / (1 - p) where a hash of seed and place is at least p 2^32, else 0 (hash: Wellons' lowbias32).
template <class T>
void dropout(const T* x, T* y, long n, uint32_t seed, uint32_t threshold, float scale, int threads) {
    ROWS
    for (long start = 0; start < n; start += CHUNK) {
        const long end = start + CHUNK < n ? start + CHUNK : n;
        EACH
        for (long i = start; i < end; i++) {
            uint32_t h = static_cast<uint32_t>(i) * 0x9e3779b9u + seed;
            h = (h ^ (h >> 16)) * 0x7feb352du;
            h = (h ^ (h >> 15)) * 0x846ca68bu;
            h ^= h >> 16;
            store(y[i], h >= threshold ? load(x[i]) * scale : 0.0f);
        }
    }
}

}  // namespace

#define EXPORT(T, name)                                                                                                \
    extern "C" void rms_norm_##name(const T* x, const T* w, T* y, float* r, long n, long d, float e, float s, int t) { \
        rms_norm(x, w, y, r, n, d, e, s, t);                                                                           \
    }                                                                                                                  \
    extern "C" void rms_norm_grad_##name(const T* g, const T* x, const T* w, const float* r, T* y, long n, long d,     \
                                         float s, int t) {                                                             \
        rms_norm_grad(g, x, w, r, y, n, d, s, t);                                                                      \
    }                                                                                                                  \
    extern "C" void rotate_##name(const T* x, const T* c, const T* s, T* y, long n, long h, long d, int b, int t) {    \
        rotate(x, c, s, y, n, h, d, b, t);                                                                             \
    }                                                                                                                  \
    extern "C" void gated_##name(const T* a, const T* b, T* y, long n, int gelu, int t) {                              \
        gelu ? gated<Gelu>(a, b, y, n, t) : gated<Silu>(a, b, y, n, t);                                                \
    }                                                                                                                  \
    extern "C" void gated_grad_##name(const T* g, const T* a, const T* b, T* x, T* y, long n, int gelu, int t) {       \
        gelu ? gated_grad<Gelu>(g, a, b, x, y, n, t) : gated_grad<Silu>(g, a, b, x, y, n, t);                          \
    }                                                                                                                  \
    extern "C" void softmax_##name(T* x, long m, long q, long k, long fq, long fk, long w, float s, int t) {           \
        softmax(x, m, q, k, fq, fk, w, s, t);                                                                          \
    }                                                                                                                  \
    extern "C" void softmax_grad_##name(const T* p, T* d, long n, long k, float s, int t) {                            \
        softmax_grad(p, d, n, k, s, t);                                                                                \
    }                                                                                                                  \
    extern "C" void label_log_probs_##name(T* x, const int64_t* y, float* l, long n, long v, int g, int t) {           \
        label_log_probs(x, y, l, n, v, g, t);                                                                          \
    }                                                                                                                  \
    extern "C" void dropout_##name(const T* x, T* y, long n, uint32_t s, uint32_t p, float f, int t) {                 \
        dropout(x, y, n, s, p, f, t);                                                                                  \
    }

EXPORT(float, f32)
EXPORT(bfloat16, bf16)
