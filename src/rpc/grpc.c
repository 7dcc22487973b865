/* The grammars of grpc.h. Checked against google.golang.org/grpc by tests of the same tables. */
#include "rpc/grpc.h"

#include "core/clock.h"
#include "core/limits.h"

#define GRPC_HOURS_MAX ((uint64_t)INT64_MAX / (3600 * NS_PER_S))

/* Nanoseconds of one unit, 0 when it is none. */
static uint64_t grpc_timeout_unit(uint8_t unit)
{
    switch (unit) {
    case 'H':
        return 3600 * NS_PER_S;
    case 'M':
        return 60 * NS_PER_S;
    case 'S':
        return NS_PER_S;
    case 'm':
        return NS_PER_MS;
    case 'u':
        return 1000;
    case 'n':
        return 1;
    default:
        return 0;
    }
}

static void grpc_timeout_refuse(const char *what, struct slice value, struct buf *why)
{
    buf_printf(why, "transport: timeout %s: ", what);
    rpc_grpc_quote(value, why);
}

bool rpc_grpc_timeout(struct slice value, uint64_t *timeout_ns, struct buf *why)
{
    if (value.size < 2) {
        grpc_timeout_refuse("string is too short", value, why);
        return false;
    }
    if (value.size > 9) {
        grpc_timeout_refuse("string is too long", value, why);
        return false;
    }
    uint64_t unit_ns = grpc_timeout_unit(value.data[value.size - 1]);
    if (unit_ns == 0) {
        grpc_timeout_refuse("unit is not recognized", value, why);
        return false;
    }
    uint64_t count = 0;
    for (size_t i = 0; i < value.size - 1; i++) {
        uint8_t digit = (uint8_t)(value.data[i] - '0');
        if (digit > 9) {
            buf_add_slice(why, SLICE_LIT("strconv.ParseUint: parsing "));
            rpc_grpc_quote(slice_of(value.data, value.size - 1), why);
            buf_add_slice(why, SLICE_LIT(": invalid syntax"));
            return false;
        }
        count = count * 10 + digit;
    }
    bool over = value.data[value.size - 1] == 'H' && count > GRPC_HOURS_MAX;
    *timeout_ns = over ? (uint64_t)INT64_MAX : count * unit_ns;
    return true;
}

/* Bytes of the UTF-8 sequence at |text|, 0 when it is none. |size| > 0. Go's rules: shortest
 * form, no surrogates, up to U+10FFFF. */
static size_t grpc_utf8_size(const uint8_t *text, size_t size)
{
    uint8_t first = text[0];
    size_t need = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (need == 0 || first > 0xf4 || need > size) {
        return 0;
    }
    for (size_t i = 1; i < need; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    bool is_bad = (first == 0xe0 && text[1] < 0xa0) || (first == 0xed && text[1] > 0x9f) ||
                  (first == 0xf0 && text[1] < 0x90) || (first == 0xf4 && text[1] > 0x8f);
    return is_bad ? 0 : need;
}

static void grpc_add_percent(struct buf *encoded, uint8_t byte)
{
    static const char digits[] = "0123456789ABCDEF";
    const char text[3] = {'%', digits[byte >> 4], digits[byte & 15]};
    buf_add(encoded, text, sizeof(text));
}

void rpc_grpc_encode_message(struct slice message, struct buf *encoded)
{
    size_t size = message.size < LIMIT_STATUS_MESSAGE ? message.size : LIMIT_STATUS_MESSAGE;
    (void)buf_reserve(encoded, size);
    for (size_t at = 0; at < size;) {
        uint8_t byte = message.data[at];
        if (byte >= ' ' && byte <= '~' && byte != '%') {
            buf_add_byte(encoded, byte);
            at++;
            continue;
        }
        size_t rune = grpc_utf8_size(message.data + at, size - at);
        if (rune == 0) {
            buf_add_slice(encoded, SLICE_LIT("%EF%BF%BD"));
            at++;
            continue;
        }
        for (size_t i = 0; i < rune; i++) {
            grpc_add_percent(encoded, message.data[at + i]);
        }
        at += rune;
    }
}

bool rpc_grpc_content_type_is_valid(struct slice value)
{
    const struct slice base = SLICE_LIT("application/grpc");
    if (!slice_starts_with(value, base)) {
        return false;
    }
    return value.size == base.size || value.data[base.size] == '+' || value.data[base.size] == ';';
}

/* The letter of Go's short escape for |byte|, 0 when it has none. */
static char grpc_quote_letter(uint8_t byte)
{
    static const char letters[] = "abtnvfr"; /* From BEL, 7, on. */
    if (byte >= 7 && byte <= 13) {
        return letters[byte - 7];
    }
    return byte == '"' || byte == '\\' ? (char)byte : '\0';
}

void rpc_grpc_quote(struct slice text, struct buf *quoted)
{
    buf_add_byte(quoted, '"');
    for (size_t at = 0; at < text.size;) {
        uint8_t byte = text.data[at];
        size_t rune = grpc_utf8_size(text.data + at, text.size - at);
        char letter = grpc_quote_letter(byte);
        if (letter != '\0') {
            buf_printf(quoted, "\\%c", letter);
        } else if (byte < ' ' || byte == 0x7f || rune == 0) {
            buf_printf(quoted, "\\x%02x", byte);
        } else {
            buf_add(quoted, text.data + at, rune);
        }
        at += rune == 0 ? 1 : rune;
    }
    buf_add_byte(quoted, '"');
}

/* Six bits of a base64 letter, 64 when it is none. */
static uint32_t grpc_base64_bits(uint8_t letter)
{
    if (letter >= 'A' && letter <= 'Z') {
        return (uint32_t)(letter - 'A');
    }
    if (letter >= 'a' && letter <= 'z') {
        return (uint32_t)(letter - 'a') + 26;
    }
    if (letter >= '0' && letter <= '9') {
        return (uint32_t)(letter - '0') + 52;
    }
    return letter == '+' ? 62 : letter == '/' ? 63 : 64;
}

/* How many letters |value| has before its padding; false where Go finds the padding wrong. */
static bool grpc_base64_letters(struct slice value, size_t *letters, size_t *bad_at)
{
    size_t at = 0;
    while (at < value.size && grpc_base64_bits(value.data[at]) < 64) {
        at++;
    }
    *letters = at;
    size_t in_last = at % 4;
    if (at == value.size) {
        *bad_at = at - in_last; /* A single letter holds no byte. */
        return in_last != 1;
    }
    bool may_be_padded = value.size % 4 == 0 && value.data[at] == '=' && in_last >= 2;
    if (!may_be_padded) {
        *bad_at = at;
        return false;
    }
    size_t end = at + 1;
    if (in_last == 2) {
        *bad_at = end == value.size ? end : end - 1;
        if (end == value.size || value.data[end] != '=') {
            return false;
        }
        end++;
    }
    *bad_at = end;
    return end == value.size;
}

bool rpc_grpc_base64(struct slice value, struct buf *bytes, size_t *bad_at)
{
    size_t letters;
    if (!grpc_base64_letters(value, &letters, bad_at)) {
        return false;
    }
    (void)buf_reserve(bytes, value.size);
    uint32_t bits = 0;
    for (size_t i = 0; i < letters; i++) {
        bits = bits << 6 | grpc_base64_bits(value.data[i]);
        if (i % 4 > 0) {
            buf_add_byte(bytes, (uint8_t)(bits >> (6 - 2 * (i % 4))));
        }
    }
    return true;
}

bool rpc_grpc_split_path(struct slice path, struct slice *service, struct slice *method)
{
    if (path.size == 0 || path.data[0] != '/') {
        return false;
    }
    size_t slash = path.size - 1;
    while (slash > 0 && path.data[slash] != '/') {
        slash--;
    }
    if (slash == 0) {
        return false;
    }
    *service = slice_of(path.data + 1, slash - 1);
    *method = slice_of(path.data + slash + 1, path.size - slash - 1);
    return true;
}
