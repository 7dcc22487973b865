package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Setup is what a test runs against: an engine and a number of replicas.
type Setup struct {
	Engine   string // "sqlite" or "postgres".
	Replicas int
}

func (s Setup) String() string { return fmt.Sprintf("%s-x%d", s.Engine, s.Replicas) }

// Engines are those that DROVER_ENGINES names; default both.
func Engines() []string {
	if text := os.Getenv("DROVER_ENGINES"); text != "" {
		return strings.Fields(strings.ReplaceAll(text, ",", " "))
	}
	return []string{"sqlite", "postgres"}
}

// Setups are sqlite ×1, postgres ×1 and postgres ×3, as far as DROVER_ENGINES asks for them.
func Setups() []Setup {
	var all []Setup
	for _, engine := range Engines() {
		all = append(all, Setup{engine, 1})
		if engine == "postgres" {
			all = append(all, Setup{engine, 3})
		}
	}
	return all
}

// Cluster is one or several replicas on one store.
type Cluster struct {
	Setup    Setup
	Replicas []*Replica
	Postgres *Postgres // nil for SQLite.
	Database string
}

// StartCluster starts |setup| on an empty store; all replicas at the same moment.
func StartCluster(setup Setup, extra ...string) (*Cluster, error) {
	return startCluster(setup, nil, extra)
}

// StartClusterOn is StartCluster on a PostgreSQL server of the caller's.
func StartClusterOn(pg *Postgres, replicas int, extra ...string) (*Cluster, error) {
	return startCluster(Setup{"postgres", replicas}, pg, extra)
}

func startCluster(setup Setup, pg *Postgres, extra []string) (*Cluster, error) {
	c := &Cluster{Setup: setup, Postgres: pg}
	if SelfTest() {
		return c, c.startStandIn()
	}
	var datastore string
	switch setup.Engine {
	case "sqlite":
		dir, err := TempDir("sqlite")
		if err != nil {
			return nil, err
		}
		datastore = "sqlite://" + filepath.Join(dir, "log.db")
	case "postgres":
		var err error
		if c.Postgres == nil {
			if c.Postgres, err = SharedPostgres(); err != nil {
				return nil, err
			}
		}
		if c.Database, err = c.Postgres.NewDatabase(); err != nil {
			return nil, err
		}
		datastore = c.Postgres.URL(c.Database)
	default:
		return nil, fmt.Errorf("unknown engine %q", setup.Engine)
	}
	for i := range setup.Replicas {
		r, err := LaunchDrover(DroverOptions{Name: fmt.Sprintf("n%d", i+1), Datastore: datastore, Extra: extra})
		if err != nil {
			c.Kill()
			return nil, err
		}
		c.Replicas = append(c.Replicas, r)
	}
	for _, r := range c.Replicas {
		if err := r.WaitReady(Patience); err != nil {
			c.Kill()
			return nil, err
		}
	}
	return c, nil
}

// startStandIn puts embedded etcd members where the replicas would be.
func (c *Cluster) startStandIn() error {
	if c.Setup.Replicas == 1 && os.Getenv("DROVER_TOOLS") != "" {
		r, err := StartDrover(DroverOptions{})
		c.Replicas = []*Replica{r}
		return err
	}
	members, err := StartEtcd(c.Setup.Replicas)
	if err != nil {
		return err
	}
	for i, m := range members {
		c.Replicas = append(c.Replicas, &Replica{Name: fmt.Sprintf("n%d", i+1), Port: m.Port, member: m})
	}
	for _, r := range c.Replicas {
		if err := r.WaitReady(Patience); err != nil {
			return err
		}
	}
	return nil
}

// Endpoints of all replicas, HOST:PORT.
func (c *Cluster) Endpoints() []string {
	var all []string
	for _, r := range c.Replicas {
		all = append(all, r.Endpoint())
	}
	return all
}

// Kill ends all replicas at once.
func (c *Cluster) Kill() {
	for _, r := range c.Replicas {
		r.Kill()
	}
}

// Stop ends all replicas by SIGTERM and returns the first complaint.
func (c *Cluster) Stop() error {
	var first error
	for _, r := range c.Replicas {
		if err := r.Stop(); err != nil && first == nil {
			first = err
		}
	}
	return first
}
