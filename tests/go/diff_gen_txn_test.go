package tests

import (
	"bytes"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// txnShape keeps a Txn free of duplicate keys, unless it shall have them: puts take keys at or
// behind a pivot, each once, deletes the keys before it.
type txnShape struct {
	pivot    int
	next     int
	careless bool
	// Puts that keep a value or a lease come without deletes: a key that an earlier operation of
	// the same Txn has deleted makes such a put end etcd (TestWhatEndsEtcdDoesNotEndIt).
	keeps bool
}

// txn makes a Txn nested |depth| deep.
func (g *generator) txn(depth int) *pb.TxnRequest {
	shape := &txnShape{pivot: g.n(len(g.keys)), careless: g.oneIn(6), keeps: g.oneIn(3)}
	shape.next = shape.pivot
	return g.txnLevel(depth, shape)
}

func (g *generator) txnLevel(depth int, shape *txnShape) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range g.n(4) {
		r.Compare = append(r.Compare, g.compare())
	}
	r.Success = g.txnOps(depth, shape)
	r.Failure = g.txnOps(depth, shape)
	if g.oneIn(40) {
		r.Success, r.Failure = nil, nil
	}
	return r
}

func (g *generator) txnOps(depth int, shape *txnShape) []*pb.RequestOp {
	var ops []*pb.RequestOp
	nested := -1
	count := g.n(4)
	if depth > 1 {
		count++
		nested = g.n(count)
	}
	for i := range count {
		if i == nested {
			child := g.txnLevel(depth-1, shape)
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: child}})
			continue
		}
		ops = append(ops, g.txnOp(shape))
	}
	return ops
}

func (g *generator) txnOp(shape *txnShape) *pb.RequestOp {
	switch p := g.n(200); {
	case p == 0:
		return &pb.RequestOp{}
	case p < 70:
		r := g.rangeRequest(true)
		g.tame(r)
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
	case p < 150:
		r := g.put()
		if !shape.careless {
			r.Key = g.keys[shape.next%len(g.keys)]
			if shape.next++; shape.next > len(g.keys) {
				return g.txnRange() // The keys are used up.
			}
			g.tamePut(r)
		}
		if !shape.keeps {
			r.IgnoreValue, r.IgnoreLease = false, false
		}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
	default:
		if shape.keeps {
			return g.txnRange()
		}
		r := g.deleteRange()
		if !shape.careless {
			if shape.pivot == 0 {
				return g.txnRange()
			}
			r.Key = g.keys[g.n(shape.pivot)]
			if len(r.RangeEnd) > 0 {
				r.RangeEnd = bytes.Clone(g.keys[shape.pivot])
			}
		}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
	}
}

func (g *generator) txnRange() *pb.RequestOp {
	r := g.rangeRequest(true)
	g.tame(r)
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

// tame takes most of the errors out of a Range: one is enough to fail the whole Txn.
func (g *generator) tame(r *pb.RangeRequest) {
	if len(r.Key) == 0 && !g.oneIn(4) {
		r.Key = g.keys[g.n(len(g.keys))]
	}
	if !g.oneIn(8) {
		r.Revision = 0
	}
	if r.SortOrder > 2 || r.SortTarget < 0 {
		if !g.oneIn(5) {
			r.SortOrder, r.SortTarget = 0, 0
		}
	}
}

func (g *generator) tamePut(r *pb.PutRequest) {
	if g.oneIn(10) {
		return
	}
	r.IgnoreValue = false
	if r.IgnoreLease && r.Lease != 0 {
		r.IgnoreLease = false
	}
	if r.Lease != 0 {
		r.Lease = symLease + int64(g.n(leaseSlots))
	}
	if r.IgnoreLease {
		r.IgnoreLease = g.oneIn(3)
	}
}

func (g *generator) compare() *pb.Compare {
	c := &pb.Compare{
		Result: pb.Compare_CompareResult(g.n(4)),
		Target: pb.Compare_CompareTarget(g.n(5)),
	}
	c.Key, c.RangeEnd = g.span()
	if len(c.Key) == 0 && !g.oneIn(4) {
		c.Key = g.keys[0]
	}
	if g.oneIn(2) {
		c.RangeEnd = nil
	}
	number := func() int64 {
		switch g.n(4) {
		case 0:
			return 0
		case 1:
			return int64(1 + g.n(3))
		default:
			return symCurrent - int64(g.n(20))
		}
	}
	switch c.Target {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: int64(g.n(4))}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: number()}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: number()}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: g.value()}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: []int64{0, 0, symLease, 7}[g.n(4)]}
		// Ids that a server makes up have no order that two sides share.
		c.Result = []pb.Compare_CompareResult{pb.Compare_EQUAL, pb.Compare_NOT_EQUAL}[g.n(2)]
	}
	switch g.n(60) {
	case 0:
		c.TargetUnion = nil
	case 1:
		c.Target = pb.Compare_CompareTarget(5 + g.n(3))
	case 2:
		c.Result = pb.Compare_CompareResult(4 + g.n(3))
	case 3:
		c.TargetUnion = &pb.Compare_Version{Version: 1}
	}
	return c
}

func (g *generator) readTxn() *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range g.n(3) {
		r.Compare = append(r.Compare, g.compare())
	}
	serializable := g.oneIn(3)
	for _, list := range []*[]*pb.RequestOp{&r.Success, &r.Failure} {
		for range g.n(3) {
			ro := g.txnRange()
			ro.GetRequestRange().Serializable = serializable || g.oneIn(4)
			*list = append(*list, ro)
		}
	}
	return r
}

// tooMany makes a Txn beyond, or just at, the ceiling of operations, flat or nested.
func (g *generator) tooMany() *pb.TxnRequest {
	flat := func(n int, prefix string) []*pb.RequestOp {
		var ops []*pb.RequestOp
		for i := range n {
			put := &pb.PutRequest{Key: fmt.Appendf(nil, "%s%d", prefix, i), Value: []byte("x")}
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
		}
		return ops
	}
	switch g.n(6) {
	case 0, 5:
		return &pb.TxnRequest{Success: flat(128, "m")}
	case 1:
		return &pb.TxnRequest{Failure: flat(129, "m")}
	case 2:
		child := &pb.TxnRequest{Success: flat(29+g.n(2), "n")}
		ops := append(flat(98, "m"), &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: child}})
		return &pb.TxnRequest{Success: ops}
	case 3:
		r := &pb.TxnRequest{}
		for range 127 + g.n(4) {
			r.Compare = append(r.Compare, g.compare())
		}
		return r
	default:
		return &pb.TxnRequest{Success: flat(129, "m")}
	}
}

// tooLarge makes a request beyond the ceiling for requests, or for messages; or just below it.
func (g *generator) tooLarge() []step {
	size := []int{1_572_864 - 200, 1_572_864, 1_600_000, 2_097_152 - 20, 2_097_152, 2_200_000}[g.n(6)]
	key := g.keys[g.n(len(g.keys))]
	put := &pb.PutRequest{Key: key, Value: make([]byte, size)}
	if g.oneIn(3) {
		ro := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}}
		return []step{g.call(&pb.TxnRequest{Success: []*pb.RequestOp{ro}})}
	}
	return []step{g.call(put), g.call(&pb.PutRequest{Key: key, PrevKv: true})}
}
