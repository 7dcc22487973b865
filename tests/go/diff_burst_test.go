package tests

// Goal: writes that race, on one replica or on several, answer as if they had run one by one.
// Method: a burst of requests goes to drover at once. Revisions tell the order that drover gave
// them: a request that changed something made the revision in its header, one that did not saw it.
// etcd runs them in that order and must give the same answers, field by field.

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"drover/tests/harness"
)

// burstOp makes a request that can't fail, so that its answer always has a revision.
func (g *generator) burstOp() proto.Message {
	switch p := g.n(100); {
	case p < 40:
		return &pb.PutRequest{Key: g.keys[g.n(len(g.keys))], Value: g.value(), PrevKv: g.oneIn(2)}
	case p < 55:
		r := &pb.DeleteRangeRequest{Key: g.keys[g.n(len(g.keys))], PrevKv: true}
		if g.oneIn(2) {
			r.RangeEnd = g.keys[g.n(len(g.keys))]
		}
		return r
	case p < 65:
		r := &pb.RangeRequest{Key: g.keys[g.n(len(g.keys))], RangeEnd: []byte{0}}
		return r
	default:
		return g.burstTxn()
	}
}

// burstTxn is a Txn of puts, deletes and reads that stands in conflict with its neighbours.
func (g *generator) burstTxn() *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range 1 + g.n(2) {
		c := g.compare()
		c.Key = g.keys[g.n(len(g.keys))]
		r.Compare = append(r.Compare, c)
	}
	shape := &txnShape{pivot: 1 + g.n(len(g.keys)-1)}
	shape.next = shape.pivot
	for _, list := range []*[]*pb.RequestOp{&r.Success, &r.Failure} {
		for range g.n(4) {
			ro := g.txnOp(shape)
			if rr := ro.GetRequestRange(); rr != nil {
				rr.Revision, rr.SortOrder, rr.SortTarget = 0, 0, 0
				rr.Key = g.keys[g.n(len(g.keys))]
			}
			if put := ro.GetRequestPut(); put != nil {
				put.Lease, put.IgnoreLease, put.IgnoreValue = 0, false, false
			}
			if ro.Request != nil {
				*list = append(*list, ro)
			}
		}
	}
	return r
}

// changed tells whether an answer is that of a request that made a revision of its own.
func changed(m proto.Message) bool {
	switch r := m.(type) {
	case *pb.PutResponse:
		return true
	case *pb.DeleteRangeResponse:
		return r.Deleted > 0
	case *pb.TxnResponse:
		for _, ro := range r.Responses {
			if ro.GetResponsePut() != nil || ro.GetResponseDeleteRange().GetDeleted() > 0 {
				return true
			}
		}
	}
	return false
}

type burst struct {
	op  op
	req proto.Message
	got answer
}

// runBurst sends all at once, then has etcd run them in drover's order.
func (r *runner) runBurst(g *generator, count int) *deviation {
	all := make([]burst, count)
	var wg sync.WaitGroup
	for i := range all {
		all[i].op = op{req: g.burstOp(), replica: g.replica()}
		for all[i].op.isLocal() { // May be as old as its replica, and so has no place in the order.
			all[i].op.req = g.burstOp()
		}
		all[i].req = resolve(all[i].op.req, r.current, r.compact, r.drover.leaseOf)
	}
	for i := range all {
		wg.Add(1)
		go func() { defer wg.Done(); all[i].got = r.drover.do(&all[i].op, all[i].req) }()
	}
	wg.Wait()
	for i := range all {
		if all[i].got.err != nil {
			return r.differ(&all[i].op, all[i].req, "an answer", all[i].got.String())
		}
	}
	slices.SortStableFunc(all, func(a, b burst) int {
		ra, rb := headerOf(a.got.resp).GetRevision(), headerOf(b.got.resp).GetRevision()
		if ra != rb {
			return int(ra - rb)
		}
		ca, cb := changed(a.got.resp), changed(b.got.resp)
		switch {
		case ca && !cb:
			return -1
		case cb && !ca:
			return 1
		}
		return 0
	})
	for i := range all {
		want := r.etcd.do(&op{}, all[i].req)
		if !r.sameAnswer(want, all[i].got) {
			return r.differ(&all[i].op, all[i].req, want.String(), all[i].got.String()+r.neighbours(all, i))
		}
		r.current = max(r.current, headerOf(want.resp).GetRevision())
	}
	return nil
}

func (r *runner) neighbours(all []burst, at int) string {
	var b strings.Builder
	b.WriteString("\n  drover's order before it:")
	for i := max(0, at-4); i < at; i++ {
		fmt.Fprintf(&b, "\n    %s -> %s", short(all[i].req), all[i].got)
	}
	return b.String()
}

func TestRacingWritesAnswerAsIfOneByOne(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		t.Parallel()
		first := seed(t)
		p, err := newPair(setup, newHistogram())
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		p.runner.seed = first
		g := &generator{rnd: newRand(first), replicas: setup.Replicas, keys: smallKeys}
		watch := &op{kind: opWatch, req: &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, PrevKv: true}}
		if d := p.runner.watchCreate(watch); d != nil {
			t.Fatal(d)
		}
		bursts := size(80, 1500)
		for i := range bursts {
			p.runner.index = i
			d := p.runner.runBurst(g, 2+g.n(60))
			if d == nil && i%10 == 9 {
				d = p.runner.sync(nil)
			}
			if d != nil {
				report(d.String())
				t.Fatal(d)
			}
		}
		p.runner.closeWatches()
		t.Logf("%d bursts, revision %d", bursts, p.runner.current)
	})
}
