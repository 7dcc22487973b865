package tests

// Goal: several replicas on one database are one store.
// Method: three replicas; what one acknowledges, the others must show to whoever asks later, and
// to their watchers.

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"drover/tests/harness"
)

// startThree starts three replicas on one PostgreSQL database, at the same moment.
func startThree(t *testing.T) *harness.Cluster {
	t.Helper()
	needPostgres(t)
	return start(t, harness.Setup{Engine: "postgres", Replicas: 3})
}

func dial(t *testing.T, endpoint string) *grpc.ClientConn {
	t.Helper()
	return dialStrict(t, endpoint, harness.AskAgain())
}

// dialStrict is for tests that take the database away and want to see how that is answered.
func dialStrict(t *testing.T, endpoint string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := harness.DialStrict(endpoint, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func client(t *testing.T, endpoints ...string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: harness.Patience, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{harness.AskAgain()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAnAcknowledgedWriteIsInEveryLaterRead(t *testing.T) {
	c := startThree(t)
	var conns []*grpc.ClientConn
	for _, endpoint := range c.Endpoints() {
		conns = append(conns, dial(t, endpoint))
	}
	ctx := testContext(t)
	rounds, workers := size(150, 2000), 16
	var checks atomic.Int64
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			key := fmt.Appendf(nil, "worker/%d", worker)
			for i := range rounds {
				value := fmt.Sprint(i)
				put, err := pb.NewKVClient(conns[(worker+i)%3]).Put(ctx, &pb.PutRequest{Key: key, Value: []byte(value)})
				if err != nil {
					t.Errorf("put: %v", err)
					return
				}
				for _, at := range []int{1, 2} {
					got, err := pb.NewKVClient(conns[(worker+i+at)%3]).Range(ctx, &pb.RangeRequest{Key: key})
					if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value ||
						got.Kvs[0].ModRevision != put.Header.Revision || got.Header.Revision < put.Header.Revision {
						t.Errorf("worker %d round %d at revision %d: %v %v", worker, i, put.Header.Revision, got, err)
						return
					}
					checks.Add(1)
				}
			}
		}()
	}
	wg.Wait()
	t.Logf("%d reads elsewhere", checks.Load())
}

// TestACounterUnderContention: every Txn that tells success counts once, whoever answers it.
func TestACounterUnderContention(t *testing.T) {
	eachSetup(t, func(t *testing.T, setup harness.Setup) {
		c := start(t, setup)
		ctx := testContext(t)
		var won, tried atomic.Int64
		var wg sync.WaitGroup
		for worker := range 12 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				kv := pb.NewKVClient(dial(t, c.Endpoints()[worker%setup.Replicas]))
				for range size(40, 400) {
					now, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("counter")})
					if err != nil {
						t.Error(err)
						return
					}
					version := int64(0)
					if len(now.Kvs) > 0 {
						version = now.Kvs[0].Version
					}
					put := &pb.PutRequest{Key: []byte("counter"), Value: fmt.Append(nil, version+1)}
					txn, err := kv.Txn(ctx, &pb.TxnRequest{
						Compare: []*pb.Compare{{Key: put.Key, TargetUnion: &pb.Compare_Version{Version: version}}},
						Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put}}},
					})
					if err != nil {
						t.Error(err)
						return
					}
					tried.Add(1)
					if txn.Succeeded {
						won.Add(1)
					}
				}
			}()
		}
		wg.Wait()
		for i, endpoint := range c.Endpoints() {
			got, err := pb.NewKVClient(dial(t, endpoint)).Range(ctx, &pb.RangeRequest{Key: []byte("counter")})
			check(t, err == nil, "%v", err)
			check(t, string(got.Kvs[0].Value) == fmt.Sprint(won.Load()) && got.Kvs[0].Version == won.Load(),
				"replica %d: %v after %d successes", i, got.Kvs[0], won.Load())
		}
		t.Logf("%d of %d won", won.Load(), tried.Load())
	})
}

func TestAWriteReachesWatchersOnOtherReplicas(t *testing.T) {
	c := startThree(t)
	ctx := testContext(t)
	type seen struct {
		replica int
		rev     int64
		at      time.Time
	}
	arrived := make(chan seen, 1024)
	for i, endpoint := range c.Endpoints() {
		watch := client(t, endpoint).Watch(ctx, "key", clientv3.WithCreatedNotify())
		<-watch
		go func() {
			for resp := range watch {
				for _, e := range resp.Events {
					arrived <- seen{i, e.Kv.ModRevision, time.Now()}
				}
			}
		}()
	}
	var latencies []time.Duration
	for i := range size(300, 2000) {
		from := i % 3
		kv := pb.NewKVClient(dialOnce(t, c.Endpoints()[from]))
		put, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("key"), Value: fmt.Append(nil, i)})
		check(t, err == nil, "put: %v", err)
		acked := time.Now()
		for range 3 {
			select {
			case s := <-arrived:
				check(t, s.rev == put.Header.Revision, "replica %d sees %d, not %d", s.replica, s.rev, put.Header.Revision)
				if s.replica != from {
					latencies = append(latencies, max(0, s.at.Sub(acked)))
				}
			case <-time.After(harness.Patience):
				t.Fatalf("write %d at revision %d does not arrive everywhere", i, put.Header.Revision)
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	slices.Sort(latencies)
	t.Logf("%d events on other replicas after the acknowledgement: p50 %v, p99 %v, max %v", len(latencies),
		latencies[len(latencies)/2], latencies[len(latencies)*99/100], latencies[len(latencies)-1])
}

var dialled sync.Map

// dialOnce keeps one connection per endpoint.
func dialOnce(t *testing.T, endpoint string) *grpc.ClientConn {
	if conn, ok := dialled.Load(endpoint); ok {
		return conn.(*grpc.ClientConn)
	}
	conn := dial(t, endpoint)
	dialled.Store(endpoint, conn)
	return conn
}

func TestProgressIsToldOnEachReplica(t *testing.T) {
	c := startThree(t)
	ctx := testContext(t)
	put, err := client(t, c.Endpoints()...).Put(ctx, "key", "value")
	check(t, err == nil, "put: %v", err)
	for i, endpoint := range c.Endpoints() {
		cl := client(t, endpoint)
		now := must[*clientv3.GetResponse](t)(cl.Get(ctx, "key")) // From here on the replica knows the put.
		check(t, len(now.Kvs) == 1, "replica %d: %v", i, now)
		watch := cl.Watch(clientv3.WithRequireLeader(ctx), "other", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		<-watch
		var took []time.Duration
		for range 20 {
			began := time.Now()
			for answered := false; !answered; {
				check(t, cl.RequestProgress(clientv3.WithRequireLeader(ctx)) == nil, "request")
				select {
				case resp := <-watch:
					check(t, resp.IsProgressNotify() && resp.Header.Revision >= put.Header.Revision, "progress: %+v", resp)
					answered = true
				case <-time.After(100 * time.Millisecond):
					check(t, time.Since(began) < harness.Patience, "replica %d does not tell its progress", i)
				}
			}
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		t.Logf("replica %d: progress p50 %v, max %v", i, took[len(took)/2], took[len(took)-1])
	}
}

func listMembers(t *testing.T, ctx context.Context, conn *grpc.ClientConn) []*pb.Member {
	list, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
	check(t, err == nil, "members: %v", err)
	return list.GetMembers()
}

func TestThreeStartAtOnceOnAnEmptyDatabase(t *testing.T) {
	needPostgres(t)
	for range size(5, 30) {
		began := time.Now()
		c, err := harness.StartCluster(harness.Setup{Engine: "postgres", Replicas: 3})
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		ids := map[uint64]bool{}
		members := map[uint64]bool{}
		for _, endpoint := range c.Endpoints() {
			ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
			conn, err := harness.Dial(endpoint)
			check(t, err == nil, "%v", err)
			s, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
			check(t, err == nil && s.Header.Revision == 1, "status: %v %v", s, err)
			ids[s.Header.ClusterId] = true
			members[s.Header.MemberId] = true
			for len(listMembers(t, ctx, conn)) < 3 { // Heartbeats tell, a moment later.
				pause()
			}
			conn.Close()
			cancel()
		}
		check(t, len(ids) == 1 && len(members) == 3, "%d clusters, %d members", len(ids), len(members))
		t.Logf("all three serve after %v", took.Round(time.Millisecond))
		c.Kill()
	}
}
