/* A canary. */
int count(void)
{
    return METRIC_counted_total;
}
