package tests

// Goal: header lists and compressed messages are taken and refused as etcd does.
// Method: as in wire_test.go; the lists are sent as they stand here, right or wrong.

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	grpcgzip "google.golang.org/grpc/encoding/gzip"

	"drover/tests/harness"
)

// wellFormed is a good list with some fields left out.
func wellFormed(without ...string) []string {
	all := (&wireCall{path: pathRange}).allHeaders()
	var kept []string
	for i := 0; i < len(all); i += 2 {
		if !strings.Contains(" "+strings.Join(without, " ")+" ", " "+all[i]+" ") {
			kept = append(kept, all[i], all[i+1])
		}
	}
	return kept
}

func headerCalls() []wireCall {
	body := grpcFrame(0, marshal(&pb.RangeRequest{Key: []byte("k")}))
	list := func(name string, fields ...string) wireCall {
		return wireCall{name: name, raw: fields, body: body}
	}
	more := func(name string, fields ...string) wireCall {
		return wireCall{name: name, raw: append(wellFormed(), fields...), body: body}
	}
	first := func(name string, fields ...string) wireCall {
		return wireCall{name: name, raw: append(fields, wellFormed()...), body: body}
	}
	less := func(without string, fields ...string) wireCall {
		return list("no "+without+" "+strings.Join(fields, " "), append(wellFormed(without), fields...)...)
	}
	calls := []wireCall{
		first("twice :method", ":method", "POST"),
		first("twice :path", ":path", pathRange),
		first("twice :authority", ":authority", "localhost"),
		first("unknown pseudo", ":nope", "1"),
		first("pseudo of answers", ":status", "200"),
		first(":protocol", ":protocol", "websocket"),
		first("regular before pseudo", "x", "y"),
		less(":authority"),
		less(":authority", "host", "localhost"),
		less(":authority", "host", "a", "host", "b"),
		less(":method"), less(":path"), less(":scheme"), less("te"), less("content-type"),
		list("pseudo of answers alone", ":status", "200"),
		list("nothing but a name", "x", "y"),
		list("authority with a scheme", append([]string{":authority", "http://127.0.0.1:2379"}, wellFormed(":authority")...)...),
		list("authority of blanks", append([]string{":authority", " a b "}, wellFormed(":authority")...)...),
		list("authority empty", append([]string{":authority", ""}, wellFormed(":authority")...)...),
		list("path empty", append([]string{":path", ""}, wellFormed(":path")...)...),
		list("path *", append([]string{":path", "*"}, wellFormed(":path")...)...),
		list("path with a control character", append([]string{":path", "/a\x01/b"}, wellFormed(":path")...)...),
		list("scheme of letters", append([]string{":scheme", "1 2"}, wellFormed(":scheme")...)...),
		list("method CONNECT", append([]string{":method", "CONNECT"}, wellFormed(":method")...)...),
		list("method in lower case", append([]string{":method", "post"}, wellFormed(":method")...)...),
		more("host too", "host", "other"),
		more("two hosts", "host", "a", "host", "b"),
		more("upper case", "X-Up", "y"),
		more("no name", "", "y"),
		more("name with a blank", "x y", "y"),
		more("name beyond ASCII", "x\xc3\xa9", "y"),
		more("name with a colon inside", "x:y", "y"),
		more("value with NUL", "x", "a\x00b"),
		more("value with a new line", "x", "a\nb"),
		more("value with DEL", "x", "a\x7fb"),
		more("value with a tab and beyond ASCII", "x", "\ta\xff "),
		more("connection", "connection", "close"),
		more("connection and two hosts", "connection", "close", "host", "a", "host", "b"),
		more("keep-alive", "keep-alive", "5"),
		more("proxy-connection", "proxy-connection", "x"),
		more("transfer-encoding", "transfer-encoding", "chunked"),
		more("upgrade", "upgrade", "h2c"),
		more("te gzip", "te", "gzip"),
		more("content-length too long", "content-length", "1000"),
		more("content-length too short", "content-length", "1"),
		more("content-length of letters", "content-length", "x"),
		more("content-length twice", "content-length", "8", "content-length", "9"),
		more("second content-type bad", "content-type", "text/plain"),
		more("first content-type bad", "content-type", "text/plain", "content-type", "application/grpc"),
		more("timeouts bad and good", "grpc-timeout", "x", "grpc-timeout", "5S"),
		more("timeouts good and bad", "grpc-timeout", "5S", "grpc-timeout", "x"),
		more("encodings unknown and none", "grpc-encoding", "nope", "grpc-encoding", "identity"),
		more("encodings none and unknown", "grpc-encoding", "identity", "grpc-encoding", "nope"),
		more("bad timeout, then bad binary", "grpc-timeout", "x", "a-bin", "!"),
		more("bad binary, then bad timeout", "a-bin", "!", "grpc-timeout", "x"),
		more("grpc-status", "grpc-status", "0"),
	}
	for _, value := range []string{"", "A", "AA", "AAA", "AAAA", "AA==", "AAA=", "AA=", "A===", "====", "AA=A",
		"AAAAA", "AAAA=", "AA==A", "A A=", "AAA\"", "AA_-", "AA,AA", "AAAAAAA!", "AAAAAA=="} {
		calls = append(calls, more("binary "+value, "x-bin", value))
	}
	return calls
}

func gzipOf(plain []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(plain)
	_ = w.Close()
	return out.Bytes()
}

func gzipCalls() []wireCall {
	key := marshal(&pb.RangeRequest{Key: []byte("k")})
	good := gzipOf(key)
	put := func(size int) []byte {
		// Seven bytes of it are not the value.
		return marshal(&pb.PutRequest{Key: []byte("k"), Value: make([]byte, size)})
	}
	changed := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	header := func(flags byte, more string) []byte {
		return join([]byte{0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 0xff}, []byte(more), good[10:])
	}
	encoded := []string{"grpc-encoding", "gzip"}
	var calls []wireCall
	add := func(name, path string, body []byte) {
		calls = append(calls, wireCall{name: name, path: path, headers: encoded, body: body})
	}
	bodies := map[string][]byte{
		"whole": good, "nothing": nil, "one byte": good[:1], "nine bytes": good[:9], "header alone": good[:10],
		"no trailer": good[:len(good)-8], "half a trailer": good[:len(good)-4], "cut off": good[:12],
		"bad magic": changed(0, 0), "bad method": changed(2, 7), "reserved flags": changed(3, 0xe0),
		"bad checksum": changed(len(good)-8, good[len(good)-8]+1), "bad size": changed(len(good)-1, 1),
		"block of no type": changed(10, 0xff), "two members": join(gzipOf(key[:1]), gzipOf(key[1:])),
		"an empty member": join(gzipOf(nil), good), "garbage behind": join(good, []byte("garbage behind")),
		"a byte behind": join(good, []byte{0x1f}), "member cut off": join(good, good[:12]),
		"name": header(8, "n\x00"), "name without end": header(8, "")[:12], "comment": header(16, "c\x00"),
		"extra": header(4, "\x02\x00xx"), "extra too long": header(4, "\xff\xff"), "bad header sum": header(2, "\x00\x00"),
		"long name": header(8, strings.Repeat("n", 600)+"\x00"), "name of 511": header(8, strings.Repeat("n", 511)+"\x00"),
		"name of 512": header(8, strings.Repeat("n", 512)+"\x00"), "empty message": gzipOf(nil),
	}
	for name, body := range bodies {
		add(name, pathRange, grpcFrame(1, body))
	}
	short := grpcFrame(1, good)
	binary.BigEndian.PutUint32(short[1:], uint32(len(good)+9))
	add("body shorter than its prefix", pathRange, short)
	add("prefix too large", pathRange, []byte{1, 0x7f, 0xff, 0xff, 0xff})
	add("flag 2", pathRange, grpcFrame(2, good))
	add("flag 2 cut off", pathRange, grpcFrame(2, good)[:9])
	add("1 MiB", pathPut, grpcFrame(1, gzipOf(put(1<<20))))
	add("the largest", pathPut, grpcFrame(1, gzipOf(put(2<<20-7))))
	add("a byte more", pathPut, grpcFrame(1, gzipOf(put(2<<20-6))))
	add("64 MiB", pathPut, grpcFrame(1, gzipOf(put(64<<20))))
	add("many empty members", pathRange, grpcFrame(1, bytes.Repeat(gzipOf(nil), 2000)))
	add("stream", "/etcdserverpb.KV/RangeStream", grpcFrame(1, good))
	add("stream broken", "/etcdserverpb.KV/RangeStream", grpcFrame(1, good[:12]))
	add("watch broken", "/etcdserverpb.Watch/Watch", grpcFrame(1, good[:12]))
	add("keep-alive", "/etcdserverpb.Lease/LeaseKeepAlive", grpcFrame(1, gzipOf(marshal(&pb.LeaseKeepAliveRequest{ID: 7}))))
	add("watch with half a prefix", "/etcdserverpb.Watch/Watch", []byte{0, 0})
	add("stream with half a prefix", "/etcdserverpb.KV/RangeStream", []byte{0, 0})
	add("stream with a prefix and a half", "/etcdserverpb.KV/RangeStream", append(grpcFrame(1, good), 0, 0))
	return calls
}

func TestHeadersAreJudgedAsEtcdDoes(t *testing.T) {
	compareCalls(t, headerCalls())
}

func TestCompressedMessagesAreAnsweredAsEtcdDoes(t *testing.T) {
	compareCalls(t, gzipCalls())
}

// TestClientsMayCompress: grpc-go's own compressor, both ways, unary and in streams.
func TestClientsMayCompress(t *testing.T) {
	c := start(t, harness.Setup{Engine: harness.Engines()[0], Replicas: 1})
	conn := dial(t, c.Endpoints()[0])
	ctx := testContext(t)
	packed := grpc.UseCompressor(grpcgzip.Name)
	kv := pb.NewKVClient(conn)
	watch, err := pb.NewWatchClient(conn).Watch(ctx, packed)
	check(t, err == nil, "watch: %v", err)
	create := &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}
	check(t, watch.Send(&pb.WatchRequest{RequestUnion: create}) == nil, "create")
	created, err := watch.Recv()
	check(t, err == nil && created.Created, "created: %v %v", created, err)
	for _, size := range []int{0, 1, 1000, 100000, 1 << 20} {
		value := bytes.Repeat([]byte("value "), size/6+1)[:size]
		_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: value}, packed)
		check(t, err == nil, "put of %d: %v", size, err)
		got, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k")}, packed)
		check(t, err == nil && len(got.Kvs) == 1 && bytes.Equal(got.Kvs[0].Value, value), "range of %d: %v", size, err)
		event, err := watch.Recv()
		check(t, err == nil && len(event.Events) == 1 && bytes.Equal(event.Events[0].Kv.Value, value), "event of %d: %v", size, err)
	}
}
