package tests

// Goal: what kube-apiserver sends is answered as it needs it.
// Method: its request shapes through clientv3 and its kubernetes package, with keys like its own,
// on one and on three replicas; each call may meet another replica, as with its round robin.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"drover/tests/harness"
)

func kubeClient(t *testing.T, c *harness.Cluster) *kubernetes.Client {
	t.Helper()
	client, err := kubernetes.New(clientv3.Config{Endpoints: c.Endpoints(), DialTimeout: harness.Patience,
		DialKeepAliveTime: 30 * time.Second, DialKeepAliveTimeout: harness.Patience, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{harness.AskAgain()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// testContext outlasts what a test does on a machine that is many times slower than ours.
func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// check ends the test unless |ok|.
func check(t *testing.T, ok bool, format string, args ...any) {
	t.Helper()
	if !ok {
		t.Fatalf(format, args...)
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestKubernetesObjects(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		t.Parallel()
		c := kubeClient(t, start(t, setup))
		ctx := testContext(t)
		key := "/registry/pods/default/web"

		// R3 on a fresh store: revision 1; R1 and R9 of what is not there.
		probe := must[kubernetes.GetResponse](t)(c.Kubernetes.Get(ctx, "/registry/pods", kubernetes.GetOptions{}))
		check(t, probe.KV == nil && probe.Revision == 1, "a fresh store answers %+v", probe)
		health := must[*clientv3.GetResponse](t)(c.KV.Get(ctx, "/registry/health"))
		check(t, health.Count == 0 && len(health.Kvs) == 0, "health probe: %v", health)

		// Create: the first write is revision 2; a second create fails without responses.
		created := must[kubernetes.PutResponse](t)(c.Kubernetes.OptimisticPut(ctx, key, []byte("v1"), 0, kubernetes.PutOptions{}))
		check(t, created.Succeeded && created.Revision == 2, "create: %+v", created)
		again := must[*clientv3.TxnResponse](t)(c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).
			Then(clientv3.OpPut(key, "other")).Commit())
		check(t, !again.Succeeded && len(again.Responses) == 0 && again.Header.Revision == 2, "create again: %v", again)

		got := must[kubernetes.GetResponse](t)(c.Kubernetes.Get(ctx, key, kubernetes.GetOptions{}))
		check(t, got.KV != nil && got.KV.ModRevision == 2 && string(got.KV.Value) == "v1", "get: %+v", got)

		// Update: on failure the present object; the header of a success is the resourceVersion.
		stale := must[kubernetes.PutResponse](t)(c.Kubernetes.OptimisticPut(ctx, key, []byte("v2"), 77,
			kubernetes.PutOptions{GetOnFailure: true}))
		check(t, !stale.Succeeded && stale.KV != nil && stale.KV.ModRevision == 2, "stale update: %+v", stale)
		updated := must[kubernetes.PutResponse](t)(c.Kubernetes.OptimisticPut(ctx, key, []byte("v2"), 2,
			kubernetes.PutOptions{GetOnFailure: true}))
		check(t, updated.Succeeded && updated.Revision == 3, "update: %+v", updated)

		// R2: as of a revision, under the header of the current one.
		old := must[kubernetes.GetResponse](t)(c.Kubernetes.Get(ctx, key, kubernetes.GetOptions{Revision: 2}))
		check(t, string(old.KV.Value) == "v1" && old.Revision == 3, "get at revision 2: %+v", old)

		// An update of what is missing: one range response without keys.
		missing := must[kubernetes.PutResponse](t)(c.Kubernetes.OptimisticPut(ctx, "/registry/pods/default/none", nil, 9,
			kubernetes.PutOptions{GetOnFailure: true}))
		check(t, !missing.Succeeded && missing.KV == nil, "update of nothing: %+v", missing)

		// Delete: stale, then good.
		kept := must[kubernetes.DeleteResponse](t)(c.Kubernetes.OptimisticDelete(ctx, key, 2, kubernetes.DeleteOptions{GetOnFailure: true}))
		check(t, !kept.Succeeded && kept.KV.ModRevision == 3, "stale delete: %+v", kept)
		gone := must[kubernetes.DeleteResponse](t)(c.Kubernetes.OptimisticDelete(ctx, key, 3, kubernetes.DeleteOptions{GetOnFailure: true}))
		check(t, gone.Succeeded && gone.Revision == 4, "delete: %+v", gone)

		// Reads use no revision.
		probe = must[kubernetes.GetResponse](t)(c.Kubernetes.Get(ctx, "/registry/pods", kubernetes.GetOptions{}))
		check(t, probe.Revision == 4, "after the delete: %+v", probe)
		kubeLease(t, ctx, c)
		kubeCompaction(t, ctx, c)
		kubeStatus(t, ctx, c)
	})
}

// withinTTL calls |use| with a TTL of |least| seconds, and with twice as many each time that it was so
// slow that the lease could end under its hands: it returns what it did not get, and when the answer
// that told it so came, measured from before the grant or the last keep-alive was sent.
func withinTTL(t *testing.T, least int64, use func(try int, ttl int64) (lacks string, after time.Duration)) {
	t.Helper()
	for try, ttl := 0, least; ; try, ttl = try+1, 2*ttl {
		lacks, after := use(try, ttl)
		if lacks == "" {
			return
		}
		check(t, after >= time.Duration(ttl)*time.Second, "%v after the grant of a lease of %d s: %s", after, ttl, lacks)
		t.Logf("too slow for a lease of %d s: %s after %v", ttl, lacks, after.Round(time.Millisecond))
	}
}

// kubeLease: an update without a lease detaches it; the lease's other key ends by itself.
func kubeLease(t *testing.T, ctx context.Context, c *kubernetes.Client) {
	withinTTL(t, 2, func(try int, ttl int64) (string, time.Duration) {
		return kubeLeaseOf(t, ctx, c, try, ttl)
	})
}

func kubeLeaseOf(t *testing.T, ctx context.Context, c *kubernetes.Client, try int, ttl int64) (string, time.Duration) {
	began := time.Now()
	lease := must[*clientv3.LeaseGrantResponse](t)(c.Grant(ctx, ttl))
	check(t, lease.ID != 0 && lease.TTL == ttl, "grant: %+v", lease)
	opts := kubernetes.PutOptions{LeaseID: lease.ID, GetOnFailure: true}
	var created [2]kubernetes.PutResponse
	keys := []string{fmt.Sprint("/registry/events/default/a", try), fmt.Sprint("/registry/masterleases/10.0.0.1", try)}
	for i, key := range keys {
		var err error
		created[i], err = c.Kubernetes.OptimisticPut(ctx, key, []byte("x"), 0, opts)
		if err != nil || !created[i].Succeeded {
			return fmt.Sprintf("create with a lease: %+v %v", created[i], err), time.Since(began)
		}
	}
	kept, err := c.Kubernetes.OptimisticPut(ctx, keys[0], []byte("y"), created[0].Revision,
		kubernetes.PutOptions{GetOnFailure: true})
	if err != nil || !kept.Succeeded {
		return fmt.Sprintf("update without a lease: %+v %v", kept, err), time.Since(began)
	}
	if kept.Revision != created[1].Revision+1 {
		return fmt.Sprintf("revisions %d and %d", created[1].Revision, kept.Revision), time.Since(began)
	}
	watch := c.Watch(clientv3.WithRequireLeader(ctx), "/registry/", clientv3.WithPrefix(),
		clientv3.WithRev(kept.Revision+1), clientv3.WithPrevKV())
	select {
	case resp := <-watch:
		check(t, resp.Err() == nil && len(resp.Events) == 1, "expiry: %+v", resp)
		e := resp.Events[0]
		check(t, e.Type == mvccpb.Event_DELETE && string(e.Kv.Key) == keys[1], "expiry: %v", e)
		check(t, e.PrevKv != nil && string(e.PrevKv.Value) == "x", "expiry without prev_kv: %v", e)
		check(t, e.Kv.ModRevision == kept.Revision+1, "expiry at %d", e.Kv.ModRevision)
		took := time.Since(began)
		check(t, took >= time.Duration(ttl)*time.Second, "the lease ended early, after %v", took)
		t.Logf("a lease of %d s ended after %v", ttl, took.Round(10*time.Millisecond))
	case <-time.After(harness.Patience + time.Duration(ttl)*time.Second):
		t.Fatalf("the key of a lease of %d s is still there", ttl)
	}
	left := must[*clientv3.GetResponse](t)(c.KV.Get(ctx, keys[0]))
	check(t, len(left.Kvs) == 1 && left.Kvs[0].Lease == 0, "the detached key: %v", left)
	return "", 0
}

// kubeCompaction is the loop of the compactor: whoever wins the Txn compacts.
func kubeCompaction(t *testing.T, ctx context.Context, c *kubernetes.Client) {
	const key = "compact_rev_key"
	now := must[*clientv3.GetResponse](t)(c.KV.Get(ctx, key))
	compacted := c.Watch(ctx, key, clientv3.WithRev(now.Header.Revision+1))
	version, rev := int64(0), int64(0)
	for round := range 4 {
		resp := must[*clientv3.TxnResponse](t)(c.Txn(ctx).If(clientv3.Compare(clientv3.Version(key), "=", version)).
			Then(clientv3.OpPut(key, strconv.FormatInt(rev, 10))).Else(clientv3.OpGet(key)).Commit())
		check(t, resp.Succeeded, "round %d: the version is not %d: %v", round, version, resp)
		loser := must[*clientv3.TxnResponse](t)(c.Txn(ctx).If(clientv3.Compare(clientv3.Version(key), "=", version)).
			Then(clientv3.OpPut(key, "lost")).Else(clientv3.OpGet(key)).Commit())
		version++
		kvs := loser.Responses[0].GetResponseRange().Kvs
		check(t, !loser.Succeeded && len(kvs) == 1 && kvs[0].Version == version, "the loser: %v", loser)
		check(t, string(kvs[0].Value) == strconv.FormatInt(rev, 10), "the loser reads %q", kvs[0].Value)
		if rev > 0 {
			_, err := c.Compact(ctx, rev)
			check(t, err == nil, "compact: %v", err)
			_, err = c.KV.Get(ctx, "/registry/pods", clientv3.WithRev(rev-1), clientv3.WithPrefix())
			check(t, err != nil && err.Error() == "etcdserver: mvcc: required revision has been compacted", "below: %v", err)
			_, err = c.KV.Get(ctx, "/registry/pods", clientv3.WithRev(rev), clientv3.WithPrefix())
			check(t, err == nil, "at the compact revision: %v", err)
		}
		rev = resp.Header.Revision
	}
	events := 0
	for events < 4 {
		select {
		case resp := <-compacted:
			check(t, resp.Err() == nil, "the watch of the compactor: %v", resp.Err())
			events += len(resp.Events)
		case <-time.After(harness.Patience):
			t.Fatalf("the watch of the compactor saw %d of 4 events", events)
		}
	}
	// A watch from a compacted revision ends with the compact revision.
	for resp := range c.Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithRev(2)) {
		check(t, resp.CompactRevision > 2 && resp.Err() != nil, "a compacted watch: %+v", resp)
		return
	}
	t.Fatal("a compacted watch ended without a word")
}

func kubeStatus(t *testing.T, ctx context.Context, c *kubernetes.Client) {
	leaders := map[uint64]bool{}
	agree := func() bool { // The duty may have moved on between two answers.
		clear(leaders)
		kubeStatusOf(t, ctx, c, leaders)
		return len(leaders) == 1 && !leaders[0]
	}
	check(t, harness.Eventually(agree), "leaders: %v", leaders)
}

func kubeStatusOf(t *testing.T, ctx context.Context, c *kubernetes.Client, leaders map[uint64]bool) {
	for _, endpoint := range c.Endpoints() {
		s := must[*clientv3.StatusResponse](t)(c.Status(ctx, endpoint))
		version := strings.Split(s.Version, ".")
		check(t, len(version) == 3 && version[0] == "3" && version[1] == "7", "version %q", s.Version)
		check(t, s.DbSize > 0 && s.DbSizeQuota > 0 && s.RaftIndex > 0, "status: %v", s)
		check(t, s.Header.ClusterId != 0 && s.Header.MemberId != 0, "status header: %v", s.Header)
		leaders[s.Leader] = true
	}
}

// objects fills the store with |n| of them, and some that lie beside.
func objects(t *testing.T, ctx context.Context, c *clientv3.Client, n int) {
	t.Helper()
	value := strings.Repeat("v", 300)
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for worker := range 64 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := worker; i < n; i += 64 {
				if _, err := c.Put(ctx, fmt.Sprintf("/registry/pods/ns%02d/pod-%06d", i%17, i), value); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	wg.Wait()
	select {
	case err := <-errs:
		t.Fatal(err)
	default:
	}
	for _, beside := range []string{"/registry/pod", "/registry/pods", "/registry/pods0", "/registry/podtemplates/x"} {
		must[*clientv3.PutResponse](t)(c.Put(ctx, beside, "beside"))
	}
}

func TestKubernetesLists(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		t.Parallel()
		cluster := start(t, setup)
		c := kubeClient(t, cluster)
		ctx := testContext(t)
		n, prefix := size(10000, 50000), "/registry/pods/"
		objects(t, ctx, c.Client, n)

		began := time.Now()
		whole := must[kubernetes.ListResponse](t)(c.Kubernetes.List(ctx, prefix, kubernetes.ListOptions{}))
		t.Logf("%d objects whole: %v", n, time.Since(began).Round(time.Millisecond))
		check(t, len(whole.Kvs) == n && whole.Count == int64(n), "whole: %d keys, count %d", len(whole.Kvs), whole.Count)
		count := must[int64](t)(c.Kubernetes.Count(ctx, prefix, kubernetes.CountOptions{}))
		check(t, count == int64(n), "count only: %d", count)

		for _, limit := range []int64{500, 10000} {
			sameKeys(t, whole.Kvs, pages(t, ctx, c, prefix, limit, int64(n)))
		}
		for _, endpoint := range cluster.Endpoints() {
			sameKeys(t, whole.Kvs, streamed(t, ctx, endpoint, prefix, whole.Revision, 0))
			streamed(t, ctx, endpoint, prefix, 0, 777)
			streamed(t, ctx, endpoint, "/registry/nothing/", 0, 0)
		}
		keys := must[*clientv3.GetResponse](t)(c.KV.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly()))
		check(t, len(keys.Kvs) == n, "keys only: %d", len(keys.Kvs))
		for i, kv := range keys.Kvs {
			check(t, string(kv.Key) == string(whole.Kvs[i].Key) && len(kv.Value) == 0, "keys only: %v", kv)
		}
	})
}

func sameKeys(t *testing.T, want, got []*mvccpb.KeyValue) {
	t.Helper()
	check(t, len(want) == len(got), "%d keys, not %d", len(got), len(want))
	for i := range want {
		check(t, proto.Equal(want[i], got[i]), "key %d: %v, not %v", i, got[i], want[i])
	}
}

// pages is R4 and R5: pages at the revision of the first one, while others write.
func pages(t *testing.T, ctx context.Context, c *kubernetes.Client, prefix string, limit, total int64) []*mvccpb.KeyValue {
	t.Helper()
	var all []*mvccpb.KeyValue
	opts := kubernetes.ListOptions{Limit: limit}
	for {
		page := must[kubernetes.ListResponse](t)(c.Kubernetes.List(ctx, prefix, opts))
		check(t, page.Count == total-int64(len(all)), "count %d with %d seen", page.Count, len(all))
		all = append(all, page.Kvs...)
		if opts.Revision == 0 {
			opts.Revision = page.Revision
		}
		if int64(len(page.Kvs)) == page.Count {
			return all
		}
		check(t, int64(len(page.Kvs)) == limit, "a page of %d", len(page.Kvs))
		opts.Continue = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
		// What is written beside must not be seen.
		must[*clientv3.PutResponse](t)(c.Put(ctx, prefix+"zz-new", "new"))
		must[*clientv3.DeleteResponse](t)(c.Delete(ctx, prefix+"zz-new"))
	}
}

// streamed is R6, with the rules that kube-apiserver reads a stream by.
func streamed(t *testing.T, ctx context.Context, endpoint, prefix string, rev, limit int64) []*mvccpb.KeyValue {
	t.Helper()
	conn, err := harness.Dial(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req := &pb.RangeRequest{Key: []byte(prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(prefix)), Revision: rev, Limit: limit}
	stream, err := pb.NewKVClient(conn).RangeStream(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	merged, chunks, last := &pb.RangeStreamResponse{}, 0, &pb.RangeResponse{}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		check(t, err == nil, "stream: %v", err)
		check(t, chunks == 0 || len(last.Kvs) > 0, "a chunk without keys is not the last one")
		check(t, !last.More, "a chunk behind the one with more")
		chunks++
		last = chunk.GetRangeResponse()
		proto.Merge(merged, chunk)
	}
	r := merged.RangeResponse
	check(t, chunks > 0 && r.Header.GetRevision() > 0, "a stream of %d chunks without a revision", chunks)
	check(t, r.More == (limit > 0), "more=%v", r.More)
	check(t, !r.More || len(last.Kvs) > 0 && last.Header != nil, "the last keys come before the header")
	unary, err := pb.NewKVClient(conn).Range(ctx, req)
	check(t, err == nil && unary.Count == r.Count && len(unary.Kvs) == len(r.Kvs), "unary: %v", err)
	return r.Kvs
}

func TestKubernetesWatch(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		t.Parallel()
		cluster := start(t, setup)
		for i := range cluster.Replicas {
			one := *cluster
			one.Replicas = cluster.Replicas[i : i+1]
			kubeWatch(t, kubeClient(t, &one), kubeClient(t, cluster), fmt.Sprintf("/registry/configmaps/n%d/", i))
		}
	})
}

// kubeWatch watches through |c| what |writer| does, as a cacher would.
func kubeWatch(t *testing.T, c, writer *kubernetes.Client, prefix string) {
	ctx := clientv3.WithRequireLeader(testContext(t))
	base := must[kubernetes.ListResponse](t)(c.Kubernetes.List(ctx, prefix, kubernetes.ListOptions{Limit: 1})).Revision
	watch := c.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(base+1), clientv3.WithPrevKV(),
		clientv3.WithProgressNotify())
	next := func() clientv3.WatchResponse {
		t.Helper()
		select {
		case resp, ok := <-watch:
			check(t, ok && resp.Err() == nil, "watch: %v %v", ok, resp.Err())
			return resp
		case <-time.After(harness.Patience):
			t.Fatal("nothing comes")
			return clientv3.WatchResponse{}
		}
	}
	// A fresh watch tells its progress without any event of its own, and never ahead of one.
	progress := func(least int64) {
		t.Helper()
		began := time.Now()
		for {
			check(t, c.RequestProgress(ctx) == nil, "request progress")
			select {
			case resp := <-watch:
				check(t, resp.IsProgressNotify(), "progress: %+v", resp)
				if resp.Header.Revision < least {
					continue // Asked before the replica had it.
				}
				t.Logf("progress after %v", time.Since(began).Round(100*time.Microsecond))
				return
			case <-time.After(100 * time.Millisecond):
			}
			check(t, time.Since(began) < harness.Patience, "no progress")
		}
	}
	beside := must[*clientv3.PutResponse](t)(writer.Put(ctx, "/registry/beside", ""))
	progress(beside.Header.Revision)
	rev := int64(0)
	for i := range 50 {
		key := fmt.Sprintf("%sobject-%d", prefix, i%5)
		put := must[kubernetes.PutResponse](t)(writer.Kubernetes.OptimisticPut(ctx, key, []byte(fmt.Sprint(i)), rev*int64(min(i%5, 1)),
			kubernetes.PutOptions{GetOnFailure: true}))
		if !put.Succeeded {
			put = must[kubernetes.PutResponse](t)(writer.Kubernetes.OptimisticPut(ctx, key, []byte(fmt.Sprint(i)),
				modRevision(put.KV), kubernetes.PutOptions{GetOnFailure: true}))
		}
		check(t, put.Succeeded, "put %d: %+v", i, put)
		e := next()
		for len(e.Events) == 0 {
			e = next()
		}
		check(t, len(e.Events) == 1 && e.Events[0].Kv.ModRevision == put.Revision, "event %d: %+v", i, e)
		check(t, e.Events[0].IsCreate() == (i < 5), "event %d: create %v", i, e.Events[0].IsCreate())
		check(t, e.Events[0].IsCreate() || e.Events[0].PrevKv != nil, "event %d without prev_kv", i)
		rev = put.Revision
	}
	gone := must[*clientv3.DeleteResponse](t)(writer.Delete(ctx, prefix, clientv3.WithPrefix()))
	var deleted []*clientv3.Event
	for len(deleted) < 5 {
		resp := next()
		check(t, len(resp.Events) == 0 || len(resp.Events) == 5, "one revision is cut into pieces: %+v", resp)
		deleted = append(deleted, resp.Events...)
	}
	for _, e := range deleted {
		check(t, e.Type == mvccpb.Event_DELETE && e.Kv.ModRevision == gone.Header.Revision, "delete: %v", e)
		check(t, e.PrevKv != nil && len(e.Kv.Value) == 0 && e.Kv.CreateRevision == 0, "delete: %v", e)
	}
	progress(gone.Header.Revision)
	// The timer's notice comes, too.
	resp := next()
	check(t, resp.IsProgressNotify() && resp.Header.Revision >= gone.Header.Revision, "timer: %+v", resp)
}

func modRevision(kv *mvccpb.KeyValue) int64 {
	if kv == nil {
		return 0
	}
	return kv.ModRevision
}
