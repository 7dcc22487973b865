package harness

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// Etcd is an embedded member.
type Etcd struct {
	Port int
	etcd *embed.Etcd
	stop func()
}

// Endpoint is HOST:PORT.
func (e *Etcd) Endpoint() string { return fmt.Sprintf("127.0.0.1:%d", e.Port) }

// Close ends the member.
func (e *Etcd) Close() { e.stop() }

// StartEtcd starts an embedded cluster of |members| and waits until all serve. fsync is off: the
// oracle's answers matter, not its durability.
func StartEtcd(members int) ([]*Etcd, error) {
	peers := make([]string, members)
	ports := make([]int, members)
	var cluster []string
	for i := range members {
		peer, err := FreePort()
		if err != nil {
			return nil, err
		}
		if ports[i], err = FreePort(); err != nil {
			return nil, err
		}
		peers[i] = fmt.Sprintf("http://127.0.0.1:%d", peer)
		cluster = append(cluster, fmt.Sprintf("m%d=%s", i+1, peers[i]))
	}
	started := make([]*Etcd, members)
	for i := range members {
		dir, err := TempDir("etcd")
		if err != nil {
			return nil, err
		}
		cfg := embed.NewConfig()
		cfg.Name = fmt.Sprintf("m%d", i+1)
		cfg.Dir = dir
		cfg.UnsafeNoFsync = true
		cfg.LogLevel = "fatal"
		cfg.ListenPeerUrls = []url.URL{mustURL(peers[i])}
		cfg.AdvertisePeerUrls = cfg.ListenPeerUrls
		cfg.ListenClientUrls = []url.URL{mustURL(fmt.Sprintf("http://127.0.0.1:%d", ports[i]))}
		cfg.AdvertiseClientUrls = cfg.ListenClientUrls
		cfg.InitialCluster = strings.Join(cluster, ",")
		cfg.WatchProgressNotifyInterval = 5 * time.Second
		e, err := embed.StartEtcd(cfg)
		if err != nil {
			return nil, err
		}
		started[i] = &Etcd{Port: ports[i], etcd: e, stop: e.Close}
	}
	for _, e := range started {
		select {
		case <-e.etcd.Server.ReadyNotify():
		case <-time.After(Patience):
			return nil, fmt.Errorf("embedded etcd does not get ready")
		}
	}
	return started, nil
}

func mustURL(text string) url.URL {
	u, err := url.Parse(text)
	if err != nil {
		panic(err)
	}
	return *u
}
