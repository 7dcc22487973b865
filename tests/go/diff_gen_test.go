package tests

// The generator: seeded programs over KV, Watch and Lease. Keys come from a small alphabet so that
// requests meet; a part of all requests is wrong on purpose.

import (
	"bytes"
	"math"
	"math/rand"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

const (
	watchStreams = 3 // The last one holds the watchers that keep etcd from telling progress.
	leaseSlots   = 3
)

// Ordered.
var smallKeys = [][]byte{
	[]byte("\x00"), []byte("a"), []byte("a\x00"), []byte("a\x00b"), []byte("ab"), []byte("b"),
	[]byte("c/1"), []byte("c/2"), []byte("d"), []byte("\xc3\xa9"), []byte("\xff"), []byte("\xff\xff"),
}

var explicitLeases = []int64{7, 1000, -7, math.MaxInt64}

type generator struct {
	rnd      *rand.Rand
	replicas int
	keys     [][]byte
}

// generate makes the program of |seed|: about |ops| ops behind a prologue that empties the store.
func generate(seed int64, ops, replicas int) []step {
	g := &generator{rnd: rand.New(rand.NewSource(seed)), replicas: replicas, keys: smallKeys}
	if seed%4 == 3 {
		g.keys = nil
		for i := range 48 {
			g.keys = append(g.keys, []byte{'w', byte('0' + i/10), byte('0' + i%10)})
		}
	}
	program := g.prologue()
	for n := 0; n < ops; {
		for _, s := range g.steps() {
			n += len(s)
			program = append(program, s)
		}
	}
	return append(program, step{{kind: opSync}})
}

func (g *generator) prologue() []step {
	all := &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, PrevKv: true}
	program := []step{{{req: all}}}
	for _, id := range explicitLeases {
		program = append(program, step{{req: &pb.LeaseRevokeRequest{ID: id}}})
	}
	for slot := range leaseSlots {
		grant := &pb.LeaseGrantRequest{TTL: 36000}
		program = append(program, step{{req: grant, slot: slot, replica: g.replica()}})
	}
	for _, key := range g.keys[:len(g.keys)/2] {
		program = append(program, step{{req: &pb.PutRequest{Key: key, Value: g.value()}}})
	}
	return program
}

func (g *generator) n(n int) int               { return g.rnd.Intn(n) }
func (g *generator) oneIn(n int) bool          { return g.rnd.Intn(n) == 0 }
func (g *generator) replica() int              { return g.n(g.replicas) }
func (g *generator) call(r proto.Message) step { return step{{req: r, replica: g.replica()}} }

func (g *generator) steps() []step {
	switch p := g.n(1000); {
	case p < 300:
		return []step{g.reads()}
	case p < 500:
		return []step{g.call(g.put())}
	case p < 570:
		return []step{g.call(g.deleteRange())}
	case p < 790:
		return []step{g.call(g.txn(1 + g.n(4)))}
	case p < 805:
		return []step{g.call(g.compact())}
	case p < 885:
		return g.lease()
	case p < 890:
		return []step{{{kind: opSync}}}
	case p < 899:
		return []step{g.call(g.tooMany())}
	case p < 903:
		return g.tooLarge()
	case p < 924:
		return []step{{g.watchProgress()}}
	case p < 940:
		return []step{{g.watchCancel()}}
	default:
		return []step{{g.watchCreate()}}
	}
}

func (g *generator) reads() step {
	var s step
	for range 1 + g.n(8) {
		o := op{replica: g.replica()}
		switch p := g.n(100); {
		case p < 60:
			o.req = g.rangeRequest(true)
		case p < 75:
			o.kind = opStream
			o.req = g.streamRequest()
		case p < 88:
			o.req = g.readTxn()
		case p < 96:
			o.req = &pb.LeaseTimeToLiveRequest{ID: g.leaseID(), Keys: !g.oneIn(3)}
		default:
			o.req = &pb.LeaseLeasesRequest{}
		}
		s = append(s, o)
	}
	return s
}

func (g *generator) key() []byte {
	if g.oneIn(100) {
		return nil
	}
	return g.keys[g.n(len(g.keys))]
}

func (g *generator) value() []byte {
	switch g.n(8) {
	case 0:
		return nil
	case 1:
		return []byte{0, 0xff, byte(g.n(256))}
	case 2:
		return bytes.Repeat([]byte{byte('a' + g.n(26))}, g.n(3000))
	default:
		return []byte{byte('a' + g.n(4))}
	}
}

// span returns key and range_end, of every kind.
func (g *generator) span() ([]byte, []byte) {
	key := g.key()
	switch g.n(12) {
	case 0, 1, 2, 3:
		return key, nil
	case 4, 5, 6:
		other := g.keys[g.n(len(g.keys))]
		if bytes.Compare(key, other) > 0 && len(key) > 0 && !g.oneIn(5) {
			return other, key
		}
		return key, other
	case 7, 8:
		return key, []byte{0}
	case 9:
		return []byte{0}, []byte{0}
	case 10:
		return g.keys[0], g.keys[len(g.keys)-1]
	default:
		if len(key) == 0 {
			return key, nil
		}
		end := bytes.Clone(key)
		end[len(end)-1]++
		return key, end
	}
}

// revision is one to read at; most are readable.
func (g *generator) revision() int64 {
	switch p := g.n(40); {
	case p < 20:
		return 0
	case p < 29:
		return symCurrent - int64(g.n(25))
	case p < 32:
		return symCompact
	case p < 34:
		return symCompact + 1
	case p < 36:
		return symCompact - int64(1+g.n(2))
	case p < 38:
		return symCurrent + int64(1+g.n(3))
	case p < 39:
		return -int64(1 + g.n(3))
	default:
		return 1
	}
}

func (g *generator) limit() int64 {
	switch g.n(12) {
	case 0, 1, 2, 3:
		return int64(1 + g.n(6))
	case 4:
		return 1000
	case 5:
		if g.oneIn(3) {
			return math.MaxInt64
		}
		return -1
	default:
		return 0
	}
}

func (g *generator) rangeRequest(sorts bool) *pb.RangeRequest {
	r := &pb.RangeRequest{Revision: g.revision(), Limit: g.limit()}
	r.Key, r.RangeEnd = g.span()
	r.Serializable = g.oneIn(4)
	r.KeysOnly = g.oneIn(5)
	r.CountOnly = g.oneIn(8)
	if sorts && g.oneIn(2) {
		r.SortOrder = pb.RangeRequest_SortOrder(g.n(3))
		r.SortTarget = pb.RangeRequest_SortTarget(g.n(5))
	}
	if sorts && g.oneIn(60) {
		r.SortOrder = pb.RangeRequest_SortOrder(3 + g.n(4))
	}
	if sorts && g.oneIn(60) {
		r.SortTarget = pb.RangeRequest_SortTarget(-1 - g.n(4))
	}
	if g.oneIn(4) {
		g.filters(r)
	}
	return r
}

func (g *generator) filters(r *pb.RangeRequest) {
	bound := func() int64 {
		if g.oneIn(10) {
			return -int64(g.n(5))
		}
		return symCurrent - int64(g.n(30))
	}
	for _, field := range []*int64{&r.MinModRevision, &r.MaxModRevision, &r.MinCreateRevision,
		&r.MaxCreateRevision} {
		if g.oneIn(3) {
			*field = bound()
		}
	}
}

func (g *generator) streamRequest() *pb.RangeRequest {
	r := g.rangeRequest(false)
	if !g.oneIn(8) {
		r.MinModRevision, r.MaxModRevision, r.MinCreateRevision, r.MaxCreateRevision = 0, 0, 0, 0
	}
	if g.oneIn(6) {
		r.SortOrder = pb.RangeRequest_SortOrder(g.n(4))
		r.SortTarget = pb.RangeRequest_SortTarget(g.n(6))
	}
	return r
}

func (g *generator) put() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.key(), Value: g.value()}
	if g.oneIn(3) {
		r.Lease = g.leaseID()
	}
	r.PrevKv = g.oneIn(3)
	if g.oneIn(8) {
		r.IgnoreValue = true
		if !g.oneIn(4) {
			r.Value = nil
		}
	}
	if g.oneIn(8) {
		r.IgnoreLease = true
		if !g.oneIn(4) {
			r.Lease = 0
		}
	}
	return r
}

func (g *generator) deleteRange() *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{PrevKv: g.oneIn(2)}
	r.Key, r.RangeEnd = g.span()
	if len(r.RangeEnd) > 0 && g.oneIn(2) {
		r.RangeEnd = nil
	}
	return r
}

func (g *generator) compact() *pb.CompactionRequest {
	r := &pb.CompactionRequest{Physical: g.oneIn(4)}
	switch g.n(10) {
	case 0:
		r.Revision = symCompact
	case 1:
		r.Revision = symCurrent + int64(1+g.n(3))
	case 2:
		r.Revision = int64(-g.n(3))
	case 3:
		r.Revision = symCurrent
	case 4:
		r.Revision = symCompact - 1
	default:
		r.Revision = symCurrent - int64(g.n(20))
	}
	return r
}

func (g *generator) leaseID() int64 {
	switch p := g.n(10); {
	case p < 6:
		return symLease + int64(g.n(leaseSlots))
	case p < 9:
		return explicitLeases[g.n(len(explicitLeases))]
	case g.oneIn(3):
		return 0
	default:
		return unknownLease
	}
}

func (g *generator) lease() []step {
	switch p := g.n(100); {
	case p < 12:
		grant := &pb.LeaseGrantRequest{TTL: g.ttl()}
		return []step{{{req: grant, slot: g.n(leaseSlots), replica: g.replica()}}}
	case p < 45:
		id := explicitLeases[g.n(len(explicitLeases))]
		return []step{g.call(&pb.LeaseGrantRequest{ID: id, TTL: g.ttl()})}
	case p < 52:
		return []step{g.call(&pb.LeaseGrantRequest{ID: int64(g.n(4)), TTL: 9_000_000_001})}
	case p < 58:
		// A TTL below the least one: the answer tells what it became. Gone before it can expire.
		id := int64(5000 + g.n(1000000))
		return []step{g.call(&pb.LeaseGrantRequest{ID: id, TTL: int64(1 - g.n(4))}),
			g.call(&pb.LeaseRevokeRequest{ID: id})}
	case p < 75:
		return []step{g.call(&pb.LeaseRevokeRequest{ID: g.leaseID()})}
	default:
		keep := &pb.LeaseKeepAliveRequest{ID: g.leaseID()}
		return []step{{{kind: opKeep, req: keep, replica: g.replica()}}}
	}
}

// ttl is one that does not end while the programs of a pair run, however long that takes.
func (g *generator) ttl() int64 {
	return []int64{36000, 100000, 5_000_000, 9_000_000_000}[g.n(4)]
}

func (g *generator) watchCreate() op {
	r := &pb.WatchCreateRequest{PrevKv: g.oneIn(2), ProgressNotify: g.oneIn(5), Fragment: g.oneIn(6)}
	r.Key, r.RangeEnd = g.span()
	if len(r.RangeEnd) == 0 && g.oneIn(2) {
		r.RangeEnd = []byte{0}
	}
	switch g.n(20) {
	case 0, 1:
		r.Key = nil
	case 2:
		r.Key, r.RangeEnd = g.keys[5], g.keys[4]
	}
	switch g.n(6) {
	case 0:
		r.Filters = []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}
	case 1:
		r.Filters = []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}
	case 2:
		if g.oneIn(8) {
			r.Filters = []pb.WatchCreateRequest_FilterType{0, 1, 0}
		}
	}
	stream := g.n(watchStreams - 1)
	switch p := g.n(20); {
	case p < 7:
	case p < 13:
		r.StartRevision = symCurrent - int64(g.n(30))
	case p < 14:
		r.StartRevision = symCompact
	case p < 16:
		r.StartRevision = symCompact - int64(1+g.n(2))
	case p < 17:
		r.StartRevision = -int64(1 + g.n(3))
	default:
		r.StartRevision = symCurrent + int64(1+g.n(6))
	}
	if g.oneIn(3) {
		r.WatchId = int64([]int{1, 2, 5, -5}[g.n(4)])
	}
	return op{kind: opWatch, req: r, stream: stream}
}

func (g *generator) watchCancel() op {
	target := g.n(6)
	if g.oneIn(3) {
		target = -1
	}
	return op{kind: opCancel, stream: g.n(watchStreams), target: target}
}

func (g *generator) watchProgress() op {
	stream := g.n(watchStreams - 1)
	if g.oneIn(10) {
		stream = watchStreams - 1
	}
	return op{kind: opProgress, stream: stream}
}
