"""Benign estimators: every estimator of scikit-learn that can be fitted on a few rows, and what else its models are made of."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

SMALL: dict[str, Any] = {
    "n_estimators": 2,
    "max_iter": 3,
    "max_depth": 2,
    "n_init": 1,
    "n_jobs": None,
    "n_init_no_help": 1,
    "n_quantiles": 5,
    "n_subsamples": None,
    "cv": 2,
    "n_components": 2,
    "n_clusters": 2,
    "n_neighbors": 3,
    "min_samples": 2,
    "n_alphas": 3,
    "perplexity": 3,
    "n_resampling": 2,
    "max_trials": 3,
    "hidden_layer_sizes": (3,),
    "n_nonzero_coefs": 1,
    "max_n_alphas": 3,
    "max_subpopulation": 10,
    "Cs": 2,
    "thresholds": 3,
    "max_bins": 8,
}


def estimators() -> Iterator[tuple[str, Any]]:
    """Fit one of each, and some that are made of others."""
    from threadpoolctl import threadpool_limits

    # So few rows are no work for threads, which only wait for each other.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        yield from _each()
        yield from _more()


def _data() -> dict[str, Any]:
    random = np.random.RandomState(0)
    features = random.rand(24, 4)
    return {"X": features, "y": (features[:, 0] > 0.5).astype(int), "targets": features[:, :2] + 0.1, "random": random}


def _each() -> Iterator[tuple[str, Any]]:
    from sklearn.utils import all_estimators

    data = _data()
    for name, cls in all_estimators():
        try:
            made = _made(name, cls)
        except TypeError:
            continue
        if hasattr(made, "fit"):
            _fit(name, made, data)
        yield name, made


def _made(name: str, cls: Any) -> Any:
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression, Ridge

    inner: Any = LogisticRegression(max_iter=3) if getattr(cls, "_estimator_type", "") == "classifier" else None
    if inner is None:
        inner = Ridge() if "Regressor" in name or "Regression" in name else LogisticRegression(max_iter=3)
    steps = (
        [("first", inner), ("second", DummyClassifier())] if "Regressor" not in name else [("first", inner), ("second", Ridge(2))]
    )
    special: dict[str, dict[str, Any]] = {
        "ColumnTransformer": {
            "transformers": [("pass", "passthrough", [0]), ("scale", _scaler(), [1, 2]), ("drop", "drop", [3])]
        },
        "FeatureUnion": {"transformer_list": [("a", _scaler()), ("b", _scaler())]},
        "Pipeline": {"steps": [("scale", _scaler()), ("model", LogisticRegression(max_iter=3))]},
        "GridSearchCV": {"estimator": inner, "param_grid": {"C": [1, 2]}, "cv": 2},
        "RandomizedSearchCV": {"estimator": inner, "param_distributions": {"C": [1, 2]}, "cv": 2, "n_iter": 1},
        "HalvingGridSearchCV": {"estimator": inner, "param_grid": {"C": [1, 2]}, "cv": 2},
        "StackingClassifier": {"estimators": steps, "cv": 2},
        "StackingRegressor": {"estimators": steps, "cv": 2},
        "VotingClassifier": {"estimators": steps},
        "VotingRegressor": {"estimators": steps},
        "SparseCoder": {"dictionary": np.ones((2, 4))},
        "FunctionTransformer": {"func": np.log1p, "inverse_func": np.expm1},
        "HDBSCAN": {"min_cluster_size": 3},
        "TunedThresholdClassifierCV": {"estimator": inner, "cv": 2, "thresholds": 3},
        "SelectKBest": {"k": 2},
        "SelfTrainingClassifier": {"estimator": LogisticRegression(max_iter=3)},
        "RFECV": {"estimator": inner, "cv": 2, "step": 3},
        "RFE": {"estimator": inner, "step": 3},
        "SequentialFeatureSelector": {"estimator": inner, "cv": 2, "n_features_to_select": 1},
        "PLSSVD": {"n_components": 1},
        "PLSCanonical": {"n_components": 1},
        "PLSRegression": {"n_components": 1},
        "CCA": {"n_components": 1},
        "LinearDiscriminantAnalysis": {},  # no n_components: it has one fewer than classes
        "FeatureHasher": {"n_features": 8},
        "HashingVectorizer": {"n_features": 8},
    }
    if name in special:
        try:
            return cls(**special[name])
        except TypeError:
            return cls(**{key.replace("estimator", "base_estimator"): value for key, value in special[name].items()})
    try:
        made = cls()
    except TypeError:
        made = cls(inner)
    known = made.get_params(deep=False)
    made.set_params(**{key: value for key, value in SMALL.items() if key in known and key != "n_jobs"})
    if "random_state" in known:
        made.set_params(random_state=0)
    return made


def _scaler() -> Any:
    from sklearn.preprocessing import StandardScaler

    return StandardScaler()


def _fit(name: str, made: Any, data: dict[str, Any]) -> None:
    """Fit it on whichever of the data it takes: some want text, some one column, some several targets."""
    texts = ["a b c", "b c d", "c d e", "a e"] * 3
    one = data["X"][:, 0]
    mappings = [{"a": 1, "b": 2.0}, {"a": 3}]
    tries: list[tuple[Any, ...]] = [(data["X"], data["y"]), (data["X"],), (data["X"], data["targets"]), (texts,), (one, one)]
    tries += [(mappings,), (data["y"],), (data["X"], one), ([["a"], ["b"]],), (data["X"] @ data["X"].T,)]
    if "Vectorizer" in name and "Dict" not in name:
        tries.insert(0, (texts,))
    elif "MultiTask" in name or "Chain" in name or "MultiOutput" in name:
        tries.insert(0, (data["X"], (data["targets"] > 0.5).astype(int)))
    for arguments in tries:
        try:
            made.fit(*arguments)
        except (TypeError, ValueError, AttributeError, IndexError):
            continue
        return


def _more() -> Iterator[tuple[str, Any]]:
    """What the estimators are made of when they are told otherwise than by default."""
    from sklearn import (
        compose,
        ensemble,
        feature_extraction,
        feature_selection,
        gaussian_process,
        impute,
        linear_model,
        metrics,
        model_selection,
        multiclass,
        neighbors,
        pipeline,
        preprocessing,
        svm,
        tree,
    )
    from sklearn.gaussian_process import kernels

    data = _data()
    X, y, numbers = data["X"], data["y"], data["X"][:, 0]  # noqa: N806 - as the library calls it
    text = feature_extraction.text
    three = np.arange(len(y)) % 3
    kinds = [kernels.RBF(), kernels.Matern(), kernels.RationalQuadratic(), kernels.ExpSineSquared(), kernels.DotProduct()]
    kinds += [kernels.WhiteKernel(), kernels.ConstantKernel(), kernels.PairwiseKernel(), kernels.RBF() ** 2]
    kinds += [kernels.CompoundKernel([kernels.RBF()]), kernels.RBF() + kernels.WhiteKernel(), kernels.RBF() * 2]
    yield "kernels", kinds
    yield "gaussian-process", gaussian_process.GaussianProcessRegressor(kinds[-2], optimizer=None).fit(X[:8], numbers[:8])
    yield "gaussian-process-three", gaussian_process.GaussianProcessClassifier(optimizer=None).fit(X[:9], three[:9])
    for form in (neighbors.KDTree, neighbors.BallTree):
        for metric in ("euclidean", "manhattan", "chebyshev", "minkowski"):
            yield f"{form.__name__}-{metric}", form(X, metric=metric)
    yield "BallTree-haversine", neighbors.BallTree(X[:, :2], metric="haversine")
    for algorithm in ("ball_tree", "kd_tree", "brute"):
        yield f"neighbors-{algorithm}", neighbors.KNeighborsClassifier(3, algorithm=algorithm).fit(X, y)
    for loss in ("squared_error", "absolute_error", "gamma", "poisson", "quantile"):
        try:
            yield (
                f"hist-{loss}",
                ensemble.HistGradientBoostingRegressor(
                    loss=loss, max_iter=1, **({"quantile": 0.5} if loss == "quantile" else {})
                ).fit(X, numbers + 0.1),
            )
        except (TypeError, ValueError):
            continue  # an older version knows fewer
    yield "hist-three", ensemble.HistGradientBoostingClassifier(max_iter=1).fit(X, three)
    yield (
        "hist-early",
        ensemble.HistGradientBoostingClassifier(max_iter=1, early_stopping=True).fit(np.tile(X, (3, 1)), np.tile(y, 3)),
    )
    for loss in ("squared_error", "absolute_error", "huber", "quantile"):
        yield f"boosting-{loss}", ensemble.GradientBoostingRegressor(loss=loss, n_estimators=2).fit(X, numbers)
    yield "boosting-exponential", ensemble.GradientBoostingClassifier(loss="exponential", n_estimators=2).fit(X, y)
    yield "boosting-three", ensemble.GradientBoostingClassifier(n_estimators=2).fit(X, three)
    yield "boosting-zero", ensemble.GradientBoostingClassifier(n_estimators=2, init="zero").fit(X, y)
    for loss in ("hinge", "log_loss", "modified_huber", "squared_hinge", "perceptron", "huber", "epsilon_insensitive"):
        try:
            yield f"sgd-{loss}", linear_model.SGDClassifier(loss=loss, max_iter=1).fit(X, y)
        except ValueError:
            continue  # log_loss was called log
    for loss in ("squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive"):
        yield f"sgd-regressor-{loss}", linear_model.SGDRegressor(loss=loss, max_iter=1).fit(X, y)
    for power in (0, 1, 1.5, 2, 3):
        yield f"tweedie-{power}", linear_model.TweedieRegressor(power=power, max_iter=1).fit(X, numbers + 0.1)
    for criterion in ("squared_error", "friedman_mse", "absolute_error", "poisson"):
        yield f"tree-{criterion}", tree.DecisionTreeRegressor(criterion=criterion, max_depth=2).fit(X, numbers)
    yield (
        "tree-entropy",
        tree.DecisionTreeClassifier(criterion="entropy", max_depth=2, random_state=np.random.RandomState(0)).fit(X, three),
    )
    yield "svm-precomputed", svm.SVC(kernel="precomputed").fit(X @ X.T, y)
    yield "svm-poly-probability", svm.SVC(kernel="poly", probability=True).fit(X, y)
    yield "splines", preprocessing.SplineTransformer(extrapolation="periodic").fit(X)
    yield "quantiles", preprocessing.QuantileTransformer(n_quantiles=5, output_distribution="normal").fit(X)
    yield "function", preprocessing.FunctionTransformer(np.sqrt, kw_args={"where": True}).fit(X)
    yield (
        "one-hot",
        preprocessing.OneHotEncoder(dtype=np.float32, handle_unknown="ignore").fit(np.array([["a", "b"], ["c", "d"]], object)),
    )
    yield "tfidf", text.TfidfVectorizer(ngram_range=(1, 2), dtype=np.float32).fit(["a b", "b c", "word here"])
    yield "tfidf-stop", text.TfidfVectorizer(stop_words="english", analyzer="char_wb").fit(["some word", "other"])
    for score in (
        feature_selection.chi2,
        feature_selection.f_classif,
        feature_selection.mutual_info_classif,
        feature_selection.f_regression,
    ):
        yield f"select-{score.__name__}", feature_selection.SelectKBest(score, k=2).fit(X, y)
    yield "imputer-indicator", impute.SimpleImputer(strategy="median", add_indicator=True).fit(np.where(X > 0.9, np.nan, X))
    yield "imputer-text", impute.SimpleImputer(strategy="constant", fill_value="x").fit(np.array([["a"]], object))
    yield "splitters", [model_selection.KFold(2), model_selection.StratifiedKFold(2), model_selection.ShuffleSplit(2)]
    yield (
        "splitters-more",
        [model_selection.GroupKFold(2), model_selection.TimeSeriesSplit(2), model_selection.RepeatedKFold(n_splits=2)],
    )
    yield (
        "scorer",
        [metrics.make_scorer(metrics.accuracy_score), metrics.get_scorer("roc_auc"), metrics.get_scorer("neg_log_loss")],
    )
    search = model_selection.GridSearchCV(
        pipeline.make_pipeline(preprocessing.StandardScaler(), svm.SVC()),
        {"svc__C": [1, 2]},
        cv=model_selection.StratifiedKFold(2),
    )
    yield "search-pipeline", search.fit(X, y)
    yield (
        "search-scored",
        model_selection.GridSearchCV(
            linear_model.Ridge(), {"alpha": [1]}, cv=2, scoring=metrics.make_scorer(metrics.r2_score)
        ).fit(X, y),
    )
    yield (
        "pipeline",
        pipeline.make_pipeline(
            impute.SimpleImputer(), preprocessing.PolynomialFeatures(), linear_model.LogisticRegression(max_iter=3)
        ).fit(X, y),
    )
    yield "one-vs-rest", multiclass.OneVsRestClassifier(svm.LinearSVC(max_iter=5)).fit(X, three)
    yield "label-binarizer", preprocessing.LabelBinarizer(sparse_output=True).fit(["a", "b", "c"])
    yield "bunch", __import__("sklearn.utils", fromlist=["Bunch"]).Bunch(a=1)
    yield "adaboost", ensemble.AdaBoostClassifier(n_estimators=2).fit(X, three)
    yield "forest-outputs", ensemble.RandomForestRegressor(2, max_depth=2).fit(X, data["targets"])
    yield "selector", compose.make_column_selector(dtype_include=np.number)
    try:
        import pandas as pd
    except ImportError:
        return
    table = pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "c": ["x", "y", "z"] * 8})
    columns = compose.ColumnTransformer(
        [
            ("numbers", pipeline.make_pipeline(impute.SimpleImputer(), preprocessing.StandardScaler()), ["a", "b"]),
            ("texts", preprocessing.OneHotEncoder(), compose.make_column_selector(dtype_exclude=np.number)),
        ],
        remainder="drop",
    )
    yield "columns", pipeline.make_pipeline(columns, ensemble.RandomForestClassifier(2, max_depth=2)).fit(table, y)
    if hasattr(columns, "set_output"):
        yield "columns-pandas", preprocessing.StandardScaler().set_output(transform="pandas").fit(table[["a", "b"]])
