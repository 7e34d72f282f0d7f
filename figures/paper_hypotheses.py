"""What the compression paper says of each claim that is tested (Secs. 3 and 5, App. E.3)."""

SETTING = "CIFAR-10"
SAYS = {
    "attraction": "contradicted (Sec. 3.1)",
    "alignment": "supported (Sec. 3.2)",
    "aligned_robust": "not consistently (Sec. 3.2)",
    "rate_before_distance": "supported (App. E.3)",
    "lawful": "supported (Sec. 5.2)",
    "one_curve": "supported (Fig. 3a)",
    "classifier_alone": "supported (Sec. 5.2)",
}
